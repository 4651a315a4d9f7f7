"""What is installed is what is in the repository: a forgotten folder would be silently missing."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\n"


def sources() -> set[str]:
    """Every tracked or new file of the packages, as it should be called in the wheel."""
    listed = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "-z",
        "--",
        *FOLDERS.values(),
    ]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    return {f"tidegate/{name}" for name in names if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is written into the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in [*(name.removeprefix("tidegate/") for name in sources()), "pyproject.toml", "README.md", "LICENSE"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", build, str(folder)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def test_the_package_list_is_the_folders() -> None:
    """Each folder with Python in it is named in pyproject.toml, and nothing else is."""
    found = {
        ".".join(Path(name).parent.parts)
        for name in sources()
        if name.endswith("/__init__.py") and "/examples/" not in name
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"tidegate.charts", "tidegate.examples"}


def test_no_python_lies_in_a_folder_that_is_no_package() -> None:
    """A module without an `__init__.py` beside it would be left out of the wheel."""
    packages = {str(Path(name).parent) for name in sources() if name.endswith("/__init__.py")}
    modules = {str(Path(name).parent) for name in sources() if name.endswith(".py") and "/examples/" not in name}
    assert modules <= packages


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    """Python, type markers, examples with their dotfiles."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("tidegate/")}
    assert packed == sources()


@pytest.mark.slow
def test_the_thin_install_is_thin_and_works(wheel: Path, tmp_path: Path) -> None:
    """With the core dependencies alone: help, config and schema work, and nothing heavy was pulled in."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    # From the index this machine is configured for.
    install = [str(uv), "pip", "install", "--quiet", "--python", str(python), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False, env=index_environment())
    if done.returncode != 0 and any(word in done.stderr for word in ("dns error", "connect", "timed out")):
        pytest.skip(f"the package index cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert_works(home / "bin" / "tidegate", tmp_path)
    listed = [str(uv), "pip", "list", "--python", str(python), "--format", "freeze"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.lower().split()
    # The client of Kubernetes brings 14 of them.
    assert len(names) < 40, names
    assert not [name for name in names if name.startswith(("mlflow", "dvc", "pandas", "numpy", "bentoml", "great"))]


def assert_works(tidegate: Path, folder: Path) -> None:
    """The commands that need no extra answer, and `doctor` says which extra is missing."""
    (folder / "tidegate.yaml").write_text(CONFIG)
    for command in (["--help"], ["config"], ["config", "--json"], ["schema"]):
        ran = subprocess.run([tidegate, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout
    doctor = subprocess.run([tidegate, "doctor"], cwd=folder, capture_output=True, text=True, check=False)
    assert doctor.returncode == 1
    assert "pip install 'tidegate[" in doctor.stdout


def index_environment() -> dict[str, str]:
    """This machine's own environment, home included: the index is configured there."""
    import pwd

    return {**os.environ, "HOME": pwd.getpwuid(os.getuid()).pw_dir, "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
