"""Code of a model is imported from its sources: a planted bytecode cache is never run, and none is written."""

from __future__ import annotations

import importlib
import importlib.util
import py_compile
import sys
from pathlib import Path

import pytest

from tidegate.core import source_only
from tidegate.registry import model_folder
from tidegate.serving.service import hooks, manifest

HONEST = "def answer():\n    return 'honest'\n\ndef prepare(columns):\n    return {'who': answer()}\n"


def plant(source: Path, evil: str) -> None:
    """Leave a cache of other code beside `source`, marked as one that Python must not check."""
    other = source.with_suffix(".evil")
    other.write_text(evil)
    cache = importlib.util.cache_from_source(str(source))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(other), cache, dfile=str(source), doraise=True, invalidation_mode=mode)
    other.unlink()


def evil(text: str) -> str:
    return text.replace("honest", "evil")


@pytest.fixture
def path_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds to the import path goes again."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.usefixtures("path_kept")
def test_python_itself_runs_a_planted_cache(tmp_path: Path) -> None:
    """Otherwise the tests below would show nothing."""
    source = tmp_path / "planted_plainly.py"
    source.write_text(HONEST)
    plant(source, evil(HONEST))
    sys.path.insert(0, str(tmp_path))
    assert importlib.import_module("planted_plainly").answer() == "evil"


def test_a_hook_and_what_it_imports_come_from_their_sources(tmp_path: Path) -> None:
    """The file itself, a module beside it, a package's module, and one that is imported only when it is called."""
    code = tmp_path / "bundle" / "code"
    (code / "hook_package").mkdir(parents=True)
    (code / "hook_package" / "__init__.py").write_text("")
    helpers = [code / "hook_beside.py", code / "hook_package" / "inner.py", code / "hook_late.py"]
    for helper in helpers:
        helper.write_text(HONEST)
    file = code / "features.py"
    file.write_text(
        "import hook_beside\nfrom hook_package import inner\n\ndef prepare(columns):\n    import hook_late\n"
        "    return ['honest', hook_beside.answer(), inner.answer(), hook_late.answer()]\n"
    )
    before = manifest.digest(tmp_path / "bundle")
    for one in (file, *helpers):
        plant(one, evil(one.read_text()))
    assert manifest.digest(tmp_path / "bundle") == before
    loaded = hooks.load(file)
    assert loaded.prepare is not None
    assert loaded.prepare({}) == ["honest"] * 4


def test_the_modules_of_a_model_folder_come_from_their_sources(tmp_path: Path) -> None:
    """Also where the folder was on the import path before, and Python had already looked into it."""
    code = tmp_path / "model" / "code"
    code.mkdir(parents=True)
    (code / "travelling_part.py").write_text(HONEST)
    before = model_folder.tree_sha256(tmp_path / "model")
    plant(code / "travelling_part.py", evil(HONEST))
    sys.path.insert(0, str(code))
    assert importlib.import_module("travelling_part").answer() == "evil"
    sys.path.remove(str(code))
    with model_folder.folder_code(tmp_path / "model"):
        assert importlib.import_module("travelling_part").answer() == "honest"
    assert model_folder.tree_sha256(tmp_path / "model") == before


@pytest.mark.usefixtures("path_kept")
def test_nothing_is_written_and_libraries_keep_their_caches(tmp_path: Path) -> None:
    """A guarded folder may be a project's own, with the virtual environment in it."""
    library = tmp_path / ".venv" / "lib" / "site-packages"
    library.mkdir(parents=True)
    (library / "cached_library.py").write_text(HONEST)
    (tmp_path / "guarded_part.py").write_text(HONEST)
    source_only.guard(tmp_path)
    sys.path[:0] = [str(tmp_path), str(library)]
    for name in ("guarded_part", "cached_library"):
        assert importlib.import_module(name).answer() == "honest"
    assert not (tmp_path / "__pycache__").exists()
    assert isinstance(importlib.import_module("guarded_part").__loader__, source_only.SourceOnlyLoader)
    assert not isinstance(importlib.import_module("cached_library").__loader__, source_only.SourceOnlyLoader)


def test_a_folder_inside_a_cache_folder_is_still_hashed(tmp_path: Path) -> None:
    """Only the caches inside it are left out."""
    folder = tmp_path / "__pycache__" / "model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("a")
    hashes = model_folder.tree_sha256(folder), manifest.digest(folder)
    (folder / "MLmodel").write_text("b")
    assert model_folder.tree_sha256(folder) != hashes[0]
    assert manifest.digest(folder) != hashes[1]
