"""The reference says what the code says, and the site has every page."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """docs/make_reference.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(maker: ModuleType) -> dict[str, str]:
    """Each page as the code has it now."""
    pages: dict[str, str] = maker.pages()
    return pages


@pytest.mark.parametrize("name", ["cli.md", "config.md", "events.md", "http.md", "metrics.md"])
def test_a_page_of_the_reference_is_what_the_code_says(made: dict[str, str], name: str) -> None:
    """`make reference` writes it again after a change of the code."""
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == made[name]


def test_every_command_key_and_event_is_in_it(made: dict[str, str]) -> None:
    """Nothing is left out because its shape was not thought of."""
    from tidegate.cli.main import COMMANDS
    from tidegate.core import config
    from tidegate.registry.state import GRAMMAR

    assert [name for name in COMMANDS if f"\n## tidegate {name}\n" not in made["cli.md"]] == []
    keys = {key for one in config.schema()["$defs"].values() for key in one.get("properties", ())}
    told = re.findall(r"^(?:\| `|## (?:.*\.)?)(\w+)", made["config.md"], re.MULTILINE)
    assert keys - set(told) == set()
    assert [kind for kind in GRAMMAR if f"`{kind}`" not in made["events.md"]] == []


def test_every_page_is_in_the_sites_menu() -> None:
    """A page that nobody can find from the first one is as good as none."""

    class Loader(yaml.SafeLoader):
        """YAML with mkdocs' names of Python objects, which nobody needs here."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
    document = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)  # noqa: S506 - a safe loader with one tag more
    named: list[str] = []

    def walk(entry: Any) -> None:
        if isinstance(entry, str):
            named.append(entry)
        for one in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            walk(one)

    walk(document["nav"])
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
