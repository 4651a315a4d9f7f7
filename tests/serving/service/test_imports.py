"""The model's image installs the `serve` extra and nothing else of ours: what runs there may need no more."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "serving" / "service"
MODULES = sorted(f"tidegate.serving.service.{path.stem}" for path in FOLDER.glob("*.py") if path.stem[0] != "_")
# In none of the requirements of the image; each would add seconds to the start and megabytes to the image.
ABSENT = (
    "mlflow",
    "dvc",
    "pandas",
    "sklearn",
    "scipy",
    "great_expectations",
    "skl2onnx",
    "matplotlib",
    "typer",
    "psutil",
)


def loaded(program: str, *arguments: str) -> set[str]:
    """What a fresh process has imported after `program`; the absent modules cannot be imported in it."""
    blocked = f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
    shown = "\nprint('LOADED', *[name for name, found in sys.modules.items() if found is not None])"
    command = [sys.executable, "-c", blocked + textwrap.dedent(program) + shown, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def ours(names: set[str]) -> set[str]:
    """The folders of ours that were imported, as `serving.service` or `core`."""
    parts = [name.split(".")[1:] for name in names if name.startswith("tidegate.")]
    return {".".join(one[:2]) if one[0] == "serving" else one[0] for one in parts}


def test_importing_the_service_needs_core_alone() -> None:
    """Every module of it, in a process where nothing else can be imported."""
    names = loaded("".join(f"import {name}\n" for name in MODULES))
    assert set(MODULES) <= names
    assert ours(names) == {"core", "serving", "serving.service"}


def test_answering_a_request_needs_no_more_than_importing(odd: object, tmp_path: Path) -> None:
    """Loading an ONNX bundle, warming it up and predicting imports none of them either."""
    bundle = str(odd.bento.bundle)  # type: ignore[attr-defined]  # the fixture of the conftest beside
    program = """
        import sys
        from pathlib import Path
        from tidegate.serving.service.model import Model
        model = Model(Path(sys.argv[1]))
        model.warm()
        rows = model.manifest.golden.rows
        assert len(model.predict(model.schema.check(rows)).predictions) == len(rows) > 0
    """
    names = loaded(program, bundle)
    assert ours(names) == {"core", "serving", "serving.service"}
    assert "onnxruntime" in names
