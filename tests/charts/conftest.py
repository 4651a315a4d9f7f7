"""The validator of the shared material, and the manifests that are committed."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent.parent / "shared"
Check = Callable[[dict[str, Any]], tuple[int, list[str]]]


@pytest.fixture(scope="session")
def check() -> Iterator[Check]:
    """`check(document)` gives 0 (holds), 1 (fails) or 2 (no schema), and why."""
    tool = SHARED / "tools" / "validate-manifests"
    if not tool.exists():
        pytest.skip("the strict schemas are not on this machine (../shared/tools/validate-manifests)")
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    utils = pytest.importorskip("kubernetes_validate.utils")
    loader = SourceFileLoader("validate_manifests", str(tool))
    spec = importlib.util.spec_from_loader("validate_manifests", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    # They read the same files for each object anew: a minute of the tests.
    module.schema_for = functools.cache(module.schema_for)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        patch.setattr(kubernetes_validate, "latest_version", functools.cache(kubernetes_validate.latest_version))
        patch.setattr(utils, "all_versions", functools.cache(utils.all_versions))
        yield module.check
