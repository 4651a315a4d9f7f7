"""The Containerfile of a release: pure text, so that what is built can be read, linted and compared.

BentoML's own has one stage with compilers and git inside, a user without a number (Kubernetes' runAsNonRoot wants
one) and writes the index's address into a layer. This one installs in a first stage and keeps only what serves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

USER: Final = 10001
PORT: Final = 3000
HOME: Final = "/opt/tidegate"
BUNDLE: Final = f"{HOME}/bundle"
TITLE_LABEL: Final = "org.opencontainers.image.title"
VERSION_LABEL: Final = "org.opencontainers.image.version"
COMMIT_LABEL: Final = "org.opencontainers.image.revision"
RELEASE_LABEL: Final = "dev.tidegate.release"
DATA_LABEL: Final = "dev.tidegate.data.md5"
BUNDLE_LABEL: Final = "dev.tidegate.bundle.sha256"

# What no server opens: pyarrow's Flight and two copies of one library, ONNX Runtime's library for C (which its Python
# module holds a second time), tools of developers. The container test predicts and writes Parquet without them.
_UNUSED: Final = (
    "bin", "pyarrow/include", "pyarrow/tests", "pyarrow/libarrow_flight*", "pyarrow/libarrow_python_flight*",
    "pyarrow/_flight*", "pyarrow/libarrow_python.so", "pyarrow/libarrow_python.so.*.*", "numpy/f2py", "numpy/*/tests",
    "onnxruntime/transformers", "onnxruntime/tools", "onnxruntime/quantization",
    "onnxruntime/capi/libonnxruntime.so.*",
)  # fmt: skip
_SOURCES: Final = ("*.c", "*.h", "*.hpp", "*.pxd", "*.pxi", "*.pyi", "*.pyx")
# Python's own installers, wherever Debian or the official image keep them. `ensurepip` would bring pip back.
_INSTALLERS: Final = (
    "/usr/lib/python3*/ensurepip", "/usr/share/python-wheels",
    "/usr/local/bin/pip*", "/usr/local/bin/wheel", "/usr/local/lib/python3*/ensurepip",
    "/usr/local/lib/python3*/site-packages/pip*", "/usr/local/lib/python3*/site-packages/setuptools*",
    "/usr/local/lib/python3*/site-packages/pkg_resources", "/usr/local/lib/python3*/site-packages/wheel*",
)  # fmt: skip
# The index and the authorities are mounted for this one command; a layer never holds them.
_SECRETS: Final = "--mount=type=secret,id=index --mount=type=secret,id=ca"
_PIP: Final = "/opt/build/venv/bin/pip --disable-pip-version-check"
_INSTALL: Final = f"{_PIP} install --no-cache-dir --no-compile --no-deps"
_WHEELS: Final = "--only-binary :all:"
_BREAK: Final = "\\\n    "
_AND: Final = f" && {_BREAK}"
_COMPILE: Final = "PYTHONHASHSEED=0 python3 -m compileall -q -j 1 --invalidation-mode unchecked-hash"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one image is made of.

    Attributes:
        base: the image to stand on, with Python and Debian's apt.
        python: its version as `3.11`; the pins hold for no other.
        labels: what `inspect` shows.
        release: the release's id.
        system_packages: Debian packages that the model needs.
        shared: whether `requirements-gpu.txt` is a layer of its own, below, for every model of a machine with a GPU.
    """

    base: str
    python: str
    release: str
    labels: Mapping[str, str] = field(default_factory=dict)
    system_packages: tuple[str, ...] = ()
    shared: bool = False


def text(recipe: Recipe) -> str:
    """The Containerfile, for a context that holds `requirements.txt`, `app/` and `bundle/`."""
    return "\n".join([*_build_stage(recipe), "", *_final_stage(recipe), ""])


def trainer_text(recipe: Recipe) -> str:
    """The Containerfile of a trainer, for a context that holds `requirements.txt`, `app/` and `tidegate`.

    It stands on the same base as the model's image, with git for the checkout; nothing of the project is in it, since
    every pod works on a commit. `release` is not used; `shared` says that it is to see the GPUs of its machine.
    """
    environment = {
        "HOME": "/tmp",  # noqa: S108 # the one folder of the image that may be written
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{HOME}/app:{HOME}/lib",
        "PYTHONUNBUFFERED": "1",
        "USER": "tidegate",  # there is no name for the number, and libraries ask for one
        **({"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"} if recipe.shared else {}),
    }
    lines = [
        *_first_lines(recipe),
        # What DVC stands on has packages of plain Python without a wheel.
        *_installed("requirements.txt", "lib", unused=("bin",), packages="--prefer-binary"),
        f"COPY app {HOME}/app",
        f"RUN {_COMPILE} {HOME}/app",
        "",
        f"FROM {recipe.base}",
        *_system(recipe.system_packages),
        "# hadolint ignore=DL3008",
        f"RUN command -v git > /dev/null || {{ {' && '.join(_apt(('ca-certificates', 'git')))}; }}",
        f"COPY --from=build {HOME}/lib {HOME}/lib",
        f"COPY --from=build {HOME}/app {HOME}/app",
        "COPY --chmod=0755 tidegate /usr/local/bin/tidegate",
        _pairs("ENV", environment),
        *([_pairs("LABEL", recipe.labels)] if recipe.labels else []),
        f"USER {USER}:{USER}",
        "WORKDIR /tmp",
        'ENTRYPOINT ["tidegate"]',
        "",
    ]
    return "\n".join(lines)


def _build_stage(recipe: Recipe) -> list[str]:
    lines = _first_lines(recipe)
    if recipe.shared:
        lines += _installed("requirements-gpu.txt", "gpu")
    lines += _installed("requirements.txt", "lib")
    lines += [
        f"COPY app {HOME}/app",
        f"RUN {_COMPILE} {HOME}/app",
    ]
    return lines


def _first_lines(recipe: Recipe) -> list[str]:
    return [
        f"FROM {recipe.base} AS build",
        "WORKDIR /opt/build",
        _run(
            f'python3 -c \'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "{recipe.python}" and '
            f'"The base image must have Python {recipe.python}, with which the release was gated.")\'',
            "python3 -m venv --copies /opt/build/venv",
        ),
    ]


def _installed(requirements: str, folder: str, unused: tuple[str, ...] = _UNUSED, packages: str = _WHEELS) -> list[str]:
    """Wheels only, so that no compiler is needed, and exactly the pins: nothing is resolved here."""
    target = f"{HOME}/{folder}"
    commands = [
        'if [ -s /run/secrets/index ]; then PIP_INDEX_URL="$(cat /run/secrets/index)"; export PIP_INDEX_URL; fi',
        "if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi",
        f"{_INSTALL} {packages} --target {target} --requirement /opt/build/{requirements}",
    ]
    cleaned = _run(
        f"rm -rf {' '.join(f'{target}/{name}' for name in unused)}",
        f"find {target} -type f \\( {' -o '.join(f'-name {one!r}' for one in _SOURCES)} \\) -delete",
        # pip writes where a wheel came from, which would be the private index.
        f"find {target} -path '*.dist-info/direct_url.json' -delete",
        f"{_COMPILE} {target}",
    )
    return [f"COPY {requirements} /opt/build/", f"RUN {_SECRETS} {_BREAK}{_AND.join(commands)}", cleaned]


def _final_stage(recipe: Recipe) -> list[str]:
    libraries = f"{HOME}/app:{HOME}/lib" + f":{HOME}/gpu" * recipe.shared
    environment = {
        "BENTOML_HOME": "/tmp/bentoml",  # noqa: S108 # inside the image it is the one folder that may be written
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": libraries,
        "PYTHONUNBUFFERED": "1",
        "TIDEGATE_BUNDLE": BUNDLE,
        "TIDEGATE_HOST": "0.0.0.0",  # noqa: S104 # a container's own network
        "TIDEGATE_PORT": str(PORT),
        "TIDEGATE_RELEASE": recipe.release,
        "TIDEGATE_THREADS": "auto",
    }
    check = json.dumps(["python3", "-m", "tidegate.serving.service.health"])
    return [
        f"FROM {recipe.base}",
        *_system(recipe.system_packages),
        _run(f"rm -rf {' '.join(_INSTALLERS)}"),
        # The largest and least changing layer first: every model of one tidegate shares it.
        *([f"COPY --from=build {HOME}/gpu {HOME}/gpu"] if recipe.shared else []),
        f"COPY --from=build {HOME}/lib {HOME}/lib",
        f"COPY --from=build {HOME}/app {HOME}/app",
        f"COPY bundle {BUNDLE}",
        _pairs("ENV", environment),
        *([_pairs("LABEL", recipe.labels)] if recipe.labels else []),
        f"USER {USER}:{USER}",
        "WORKDIR /tmp",
        f"EXPOSE {PORT}",
        "STOPSIGNAL SIGTERM",
        f"HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD {check}",
        'ENTRYPOINT ["python3", "-m", "tidegate.serving.service"]',
    ]


def _pairs(word: str, pairs: Mapping[str, str]) -> str:
    # A dollar sign would name a variable of the build.
    values = (
        f"{name}={json.dumps(value, ensure_ascii=False)}".replace("$", "\\$") for name, value in sorted(pairs.items())
    )
    return f"{word} {f' {_BREAK}'.join(values)}"


def _system(packages: tuple[str, ...]) -> list[str]:
    if not packages:
        return []
    return [
        # Debian keeps one version of a package; the SBOM says which one it was.
        "# hadolint ignore=DL3008",
        _run(*_apt(packages)),
    ]


def _apt(packages: tuple[str, ...]) -> tuple[str, ...]:
    return (
        "apt-get update",
        f"apt-get install --yes --no-install-recommends {' '.join(sorted(packages))}",
        "rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log",
    )


def _run(*commands: str) -> str:
    return f"RUN {_AND.join(commands)}"
