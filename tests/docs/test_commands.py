"""No document names a command, an option or a file that does not exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup

from tidegate.cli.main import root

ROOT = Path(__file__).resolve().parent.parent.parent
_FOUND = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/*.md")]
PAGES = sorted(_FOUND)
FENCE = re.compile(r"^```(?:sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(tidegate [^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def lines(text: str) -> list[str]:
    """Every command of ours that a reader could paste."""
    pasted = [line for block in FENCE.findall(text) for line in block.splitlines()]
    split = [part.strip() for line in pasted for part in re.split(r"&&|\|", line.partition(" #")[0])]
    return [one for one in [*split, *INLINE.findall(text)] if one.startswith("tidegate ")]


def wrong(line: str) -> str:
    """Which word of a command line means nothing; empty if all do."""
    words = shlex.split(line.replace("[", "").replace("]", ""))[1:]
    group: Any = root()
    known: set[str] = {name for one in group.params for name in (*one.opts, *one.secondary_opts)}
    known_globals = {name for one in group.params for name in one.opts}
    while words and words[0] in known_globals:
        # Those with a value in front of the command: `tidegate -C DIR down`.
        words = words[1:] if words[0] in {"--json", "--traceback"} else words[2:]
    while words and isinstance(group, TyperGroup) and not words[0].startswith("-"):
        name = words.pop(0)
        group = (
            group.load(name)
            if hasattr(group, "load") and name in group.list_commands(None)
            # type: ignore[arg-type]  # it needs none
            else (getattr(group, "commands", {}).get(name))
        )
        if group is None:
            return name
        known |= {name for one in group.params for name in (*one.opts, *one.secondary_opts)}
    return next((word for word in words if word.startswith("-") and word.split("=")[0] not in known), "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_page_exists_with_its_options(page: Path) -> None:
    """A renamed option is found in the documents that still show the old one."""
    assert {line: word for line in lines(page.read_text()) if (word := wrong(line))} == {}


def test_a_command_that_is_none_would_be_found() -> None:
    """In fences and in running text, words and options."""
    page = "```sh\ntidegate up -d   # serve\ntidegate upp && tidegate train --fast\n```\nand `tidegate rollout begin`\n"
    assert [wrong(line) for line in lines(page)] == ["", "upp", "--fast", "begin"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    """Addresses of the web are not asked."""
    linked = [one for one in LINK.findall(page.read_text()) if "://" not in one]
    assert [one for one in linked if not (page.parent / one).exists()] == []


def test_every_target_of_make_in_a_page_exists() -> None:
    """`make help` lists them."""
    done = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True)
    known = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    named = {name for page in PAGES for name in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert named - known == set()
