"""What no committed file may hold: addresses and paths of one machine, work left over, characters nobody sees."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Folders of tests that stand for something else than a folder of ours.
SPECIAL = {"charts", "contracts", "journeys", "simulation", "cluster"}


def tracked() -> list[str]:
    """Every file that is committed, or would be by `git add`."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    return sorted({name for name in listed if name and (ROOT / name).is_file()})


def texts() -> dict[str, str]:
    """The text files among them, but this one, which must name what it looks for."""
    found = {}
    for name in tracked():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content[:8000] and name != "tests/test_hygiene.py":
            found[name] = content.decode()
    return found


RULES = {
    "a package index": r"--(extra-)?index-url|--default-index|https?://[^/\s\"']*(pypi|simple/)|/simple/|artifactory|nexus",
    # The Ada of the examples has no machine.
    "a path of a home or build machine": r"(?<![\w.-])/(root|work|workspace|builds?|Users|home/(?!ada\b)\w+)/\w",
    "work left over": r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
    "a merge conflict": r"^(<{7}|>{7}) ",
    "a private key": r"BEGIN [A-Z ]*PRIVATE KEY",
    "an access token": r"\b(ghp_|github_pat_|glpat-|xox[bp]-|AKIA)[A-Za-z0-9]{10}",
    "an invisible character": "[\u200b-\u200f\u202a-\u202e\u2060\ufeff\u00a0]",
}


@pytest.mark.parametrize("what", RULES)
def test_no_file_holds(what: str) -> None:
    """Each finding is told with file and line."""
    rule = re.compile(RULES[what], re.MULTILINE)
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()!r}"
        for name, text in texts().items()
        for match in rule.finditer(text)
    ]
    assert found == []


def test_the_rules_find_what_they_are_for() -> None:
    """A rule that matches nothing would pass for ever."""
    examples = {
        "a package index": "--index-url https://example.org/simple/",
        "a path of a home or build machine": 'open("/home/kim/x")',
        "work left over": "# TO" + "DO: later",
        "a merge conflict": "<<<<<<< HEAD",
        "a private key": "-----BEGIN RSA PRIVATE KEY-----",
        "an access token": "ghp_" + "a" * 20,
        "an invisible character": "a\u200bb",
    }
    assert [what for what, text in examples.items() if not re.search(RULES[what], text, re.MULTILINE)] == []
    assert set(examples) == set(RULES)


def test_every_text_is_utf8_and_ends_with_one_newline() -> None:
    """`texts` reads them as UTF-8; no Windows line ends, no blank lines at the end."""
    wrong = [
        name
        for name, text in texts().items()
        if text and ("\r" in text or not text.endswith("\n") or text[-2:] == "\n\n")
    ]
    assert wrong == []


def test_no_file_is_large_or_a_lock_of_another_tool() -> None:
    """Data and models belong to DVC; `requirements.lock` is the one lock file, since it names no index."""
    large = [name for name in tracked() if (ROOT / name).stat().st_size > 1_000_000 and name != "requirements.lock"]
    locks = [name for name in tracked() if Path(name).name in {"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock"}]
    assert (large, locks) == ([], [])


def test_every_test_file_mirrors_a_folder() -> None:
    """tests/a/b/ tests a/b/; whoever changes a folder knows where its tests are."""
    folders = {Path(name).parent.relative_to("tests") for name in tracked() if name.startswith("tests/")}
    strays = [str(folder) for folder in folders if folder.parts and folder.parts[0] not in SPECIAL]
    assert [folder for folder in strays if not (ROOT / folder).is_dir()] == []


def test_test_files_have_names_of_their_own() -> None:
    """In one folder or another, `test_x.py` tests x; what pytest would not collect is no test."""
    names = [Path(name) for name in tracked() if name.startswith("tests/") and name.endswith(".py")]
    helpers = {
        "argo.py",
        "closed_loop.py",
        "cluster_gateway.py",
        "cluster_world.py",
        "conftest.py",
        "drift_loop.py",
        "drifting.py",
        "fakes.py",
        "golden.py",
        "happened.py",
        "journey.py",
        "kube_api.py",
        "kube_argo.py",
        "kube_world.py",
        "loop_world.py",
        "recorded.py",
        "runner.py",
        "shapes.py",
    }
    assert [str(name) for name in names if not name.name.startswith("test_") and name.name not in helpers] == []


def test_every_test_says_in_a_sentence_what_it_shows() -> None:
    """One line of docstring, which the name alone cannot hold."""
    import ast

    missing = []
    for name, text in texts().items():
        if not (name.startswith("tests/") and name.endswith(".py")):
            continue
        for node in ast.walk(ast.parse(text)):
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if is_test and not ast.get_docstring(node):  # type: ignore[arg-type]  # checked by `is_test`
                missing.append(f"{name}: {node.name}")  # type: ignore[attr-defined]  # the same
    assert missing == []
