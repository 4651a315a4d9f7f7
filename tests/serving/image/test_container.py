"""A real image, built by buildah and run by podman with nothing that a cluster's restricted profile forbids.

Needs Debian's buildah, podman, runc and debootstrap, and root; no registry and no Docker. `make test-images` runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tidegate.serving.image import archive, builders

# The first one makes the base, the project and the image.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
BASE = "localhost/python:3.11-slim"
MARK = "nobody-may-read-this"
TOOLS = ("buildah", "podman", "runc", "debootstrap", "openssl")
AUTHORITIES = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
CONTAINERS = """[containers]
netns="host"
default_ulimits=["nofile=20000:20000","nproc=30000:30000"]
[engine]
runtime="runc"
cgroup_manager="cgroupfs"
events_logger="file"
"""
PORT = 18390


def run(*command: str, **more: Any) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Buildah in a chroot, podman with runc on the network of the machine: no daemon, no registry."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing or os.geteuid():
        pytest.skip(
            f"needs root and {', '.join(TOOLS)}: " + (f"{', '.join(missing)} missing" if missing else "not root")
        )
    config = tmp_path_factory.mktemp("containers") / "containers.conf"
    config.write_text(CONTAINERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(config))
        patch.setenv("BUILDAH_ISOLATION", "chroot")
        yield


@pytest.fixture(scope="module")
def base(tools: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Debian with Python that nobody had to pull; one that is here from before is taken."""
    if subprocess.run(["podman", "image", "exists", BASE], check=False).returncode == 0:
        return BASE
    root = tmp_path_factory.mktemp("base") / "root"
    run("debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", str(root))
    for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / name)
    packed = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
    run("podman", "import", "--quiet", "-", BASE, stdin=packed.stdout)
    assert packed.wait() == 0
    return BASE


@pytest.fixture(scope="module")
def project(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped project with a private index, authorities and a key that signs."""
    from pip._internal.models.index import PyPI
    from sklearn.datasets import load_breast_cancer

    from tidegate.core.progress import Silent
    from tidegate.core.project import open_project
    from tidegate.pipelines import flows
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.init import init

    folder = tmp_path_factory.mktemp("image")
    root, table = folder / "project", folder / "cancer.csv"
    load_breast_cancer(as_frame=True).frame.to_csv(table, index=False)
    init(root, table, "target", progress=Silent())
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(root / "key.pem"))
    run("openssl", "pkey", "-in", str(root / "key.pem"), "-pubout", "-out", str(root / "key.pub"))
    # The index that pip knows, under the name and password of somebody.
    (root / "index").write_text(PyPI.simple_url.replace("://", f"://{MARK}:{MARK}@"))
    file = root / "tidegate.yaml"
    section = f'image: {{base: "{base}", index: "file:index", ca: "{AUTHORITIES}", sign: "file:key.pem"}}\n'
    file.write_text(file.read_text() + section)
    flows.ship(environment_for(open_project(root, "local")), Silent(), wait=False, timeout=1)
    return root


@pytest.fixture(scope="module")
def built(project: Path) -> Iterator[dict[str, Any]]:
    """The image as `package --image --json` tells it, and without the private parts of it."""
    document = package(project)
    yield document
    builders.remove(builders.find(), document["reference"])


def package(project: Path) -> dict[str, Any]:
    """Build the champion's image."""
    from tidegate.core.progress import Silent
    from tidegate.core.project import open_project
    from tidegate.pipelines import images, repackage
    from tidegate.pipelines.environment import environment_for

    environment = environment_for(open_project(project, "local"))
    made = repackage.package(environment, None, Silent())
    image = images.build(environment, made.release, made.bundle, Silent(), push=False)
    return images.document(made.release.id, image)


@pytest.fixture(scope="module")
def opened(built: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[archive.Image]:
    """The image as it was built, to look into."""
    file = tmp_path_factory.mktemp("saved") / "image.tar"
    builders.save(builders.find(), built["reference"], file)
    with archive.opened(file) as image:
        assert image.digest == built["digest"]
        yield image


def test_no_layer_holds_the_index_the_authorities_or_an_installer(opened: archive.Image) -> None:
    """Every file of every layer, covered or not, and the config with its history."""
    assert MARK not in str(opened.config)
    everything = [(tar, member) for tar in opened._tars for member in tar if member.isfile()]
    assert len(everything) > 1000
    held = [m.name for tar, m in everything if MARK.encode() in getattr(tar.extractfile(m), "read", bytes)()]
    assert held == []
    installers = ("/pip/__init__.py", "/bin/pip3", "/bin/uv", "/bin/gcc", "/bin/cc", "/ensurepip/__init__.py")
    assert [path for path in opened.files if f"/{path}".endswith(installers)] == []


def test_it_is_lean(opened: archive.Image) -> None:
    """Base, libraries and bytecode included."""
    assert opened.size <= 360e6
    assert any(path.endswith("onnxruntime/__pycache__/__init__.cpython-311.pyc") for path in opened.files)


def test_the_doctor_finds_it_sound(cli: Callable[..., Any], project: Path, built: dict[str, Any]) -> None:
    """Read-only, no capabilities, user 10001: ready, and its answers are the registry's."""
    done = cli("-C", project, "doctor", "image", built["reference"], "--json")
    assert done.exit_code == 0, done.stderr
    seen = done.json
    assert (seen["ok"], seen["user"], seen["provider"]) == (True, "10001:10001", "CPUExecutionProvider")
    assert seen["difference"] <= 1e-6
    assert seen["stop"] <= 5


def test_stopping_loses_no_request(built: dict[str, Any], project: Path) -> None:
    """Requests of which half has arrived at SIGTERM are answered whole, and it has ended within five seconds."""
    from tidegate.core.project import open_project
    from tidegate.pipelines.bundles import bundle_of
    from tidegate.pipelines.environment import environment_for
    from tidegate.registry import releases
    from tidegate.serving.service import manifest

    environment = environment_for(open_project(project, "local"))
    bundle = bundle_of(environment.project, releases.load(environment.store, built["release"]))
    body = json.dumps({"rows": manifest.read(bundle).golden.rows}).encode()
    tool = builders.runner()
    builders.start(tool, built["reference"], "tidegate-test-stop", PORT)
    try:
        ready(PORT)
        asked = [half_asked(body) for _ in range(16)]
        begun = time.monotonic()
        stopping = threading.Thread(target=builders.stop, args=(tool, "tidegate-test-stop"))
        stopping.start()
        while listens(PORT):
            assert time.monotonic() - begun <= 5
        statuses = [finished(connection, body) for connection in asked]
        stopping.join(10)
        seconds = time.monotonic() - begun
    finally:
        builders.discard(tool, "tidegate-test-stop")
    assert statuses == [200] * 16
    assert seconds <= 5


def half_asked(body: bytes) -> HTTPConnection:
    """A request of which the head and half of the body are sent."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=10)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body[: len(body) // 2])
    return connection


def finished(connection: HTTPConnection, body: bytes) -> int:
    """Send the other half; gives the status of the answer."""
    connection.send(body[len(body) // 2 :])
    status = connection.getresponse().status
    connection.close()
    return status


def listens(port: int) -> bool:
    """Whether somebody takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ready(port: int) -> None:
    """Wait for the server."""
    from tidegate.serving.service import health

    deadline = time.monotonic() + 60
    while not health.ready(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_sound_image_is_verified_with_its_key(cli: Callable[..., Any], project: Path, built: dict[str, Any]) -> None:
    """By its release and by its name; ledger, store, layers, labels and signature agree."""
    for what in (built["release"], built["reference"]):
        done = cli("-C", project, "release", "verify", what, "--key", project / "key.pub", "--json")
        assert done.exit_code == 0, done.stderr
        assert done.json["signed_by"]


@pytest.mark.parametrize("name", ["sbom.json", "provenance.json"])
def test_a_changed_statement_is_refused(
    cli: Callable[..., Any], project: Path, built: dict[str, Any], name: str
) -> None:
    """The ledger holds the hash of each."""
    from tidegate.core.project import open_project
    from tidegate.pipelines.environment import environment_for

    store = environment_for(open_project(project, "local")).store
    place = f"images/{built['digest'].removeprefix('sha256:')}/{name}"
    sound = store.read(place)
    store.write(place, sound.replace(b"1", b"2", 1))
    done = cli("-C", project, "release", "verify", built["release"])
    store.write(place, sound)
    assert done.exit_code == 1
    assert f"{name} in the store is not what was recorded" in done.stderr


def test_another_model_under_the_same_name_is_refused(
    cli: Callable[..., Any], project: Path, built: dict[str, Any]
) -> None:
    """One layer more, with another model in it: another digest."""
    reference = built["reference"]
    run("podman", "tag", reference, "localhost/tidegate/kept:1")
    name = run("buildah", "from", reference).strip()
    try:
        run("buildah", "run", "--user", "0", name, "sh", "-c", "echo x >> /opt/tidegate/bundle/model.onnx")
        run("buildah", "commit", "--quiet", "--format", "docker", name, reference)
        done = cli("-C", project, "release", "verify", built["release"])
    finally:
        run("buildah", "rm", name)
        run("podman", "tag", "localhost/tidegate/kept:1", reference)
        run("podman", "untag", "localhost/tidegate/kept:1")
    assert done.exit_code == 1
    assert "The image is not what was recorded" in done.stderr


def test_the_same_release_gives_the_same_digest(
    project: Path, built: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built again from nothing."""
    monkeypatch.setenv(builders.OPTIONS, "--no-cache")
    assert package(project) == built


def test_a_trainer_runs_the_steps_of_a_pod(project: Path, tmp_path: Path) -> None:
    """Built from this environment, without a secret in a layer, and confined as its Workflow confines it."""
    from tidegate.core import git
    from tidegate.core.progress import Silent
    from tidegate.core.project import open_project
    from tidegate.pipelines import trainer_image
    from tidegate.pipelines.environment import environment_for

    environment = environment_for(open_project(project, "local"))
    made = trainer_image.build(environment, Silent(), push=False)
    try:
        file = tmp_path / "image.tar"
        builders.save(builders.find(), made.reference, file)
        with archive.opened(file) as image:
            assert image.digest == made.digest == environment.ledger.events()[-1].data["digest"]
            assert MARK not in str(image.config)
            everything = [(tar, member) for tar in image._tars for member in tar if member.isfile()]
            assert [
                m.name for tar, m in everything if MARK.encode() in getattr(tar.extractfile(m), "read", bytes)()
            ] == []
        git.git(project, "add", "--all")
        git.git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "All")
        command = ["podman", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        command += [f"--tmpfs={path}:mode=1777" for path in ("/tmp", "/project", "/out")]  # noqa: S108 - inside it
        command += ["--volume", f"{project}:/repository:ro", made.reference]
        place = ["--repository", "/repository", "--into", "/project/work", "--out", "/out"]
        done = subprocess.run(
            [*command, "step", "contract", "--flow", "release", *place], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        version = run(*command, "--version")
        assert version.startswith("tidegate ")
    finally:
        builders.remove(builders.find(), made.reference)
