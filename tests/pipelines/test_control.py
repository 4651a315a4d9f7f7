"""How another terminal asks `tidegate up`: over a unix socket that is private, short and honest about failures."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.errors import Temporary, TidegateError
from tidegate.pipelines.control import NotRunning, ask, serve, socket_path


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Path]:
    """A socket path of a project, below a temporary directory of its own."""
    folder = Path(f"/tmp/tg{os.getpid()}")  # noqa: S108 - pytest's own folders are too deep for a socket
    folder.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield socket_path(tmp_path, "local")
    for one in sorted(folder.rglob("*"), reverse=True):
        one.rmdir() if one.is_dir() and not one.is_symlink() else one.unlink()
    folder.rmdir()


def answers(**documents: Any) -> Mapping[str, Any]:
    return {name: lambda document=document: document for name, document in documents.items()}


def test_a_question_gets_its_document(path: Path) -> None:
    """Each name has its own answer, computed when it is asked."""
    count = iter(range(9))
    with serve(path, {"ps": lambda: {"kind": "stack", "n": next(count)}, "down": lambda: {"kind": "down"}}):
        assert [ask(path, "ps")["n"], ask(path, "ps")["n"]] == [0, 1]
        assert ask(path, "down") == {"kind": "down"}


def test_only_this_user_may_ask(path: Path) -> None:
    """The socket is 0600 in a folder that is 0700."""
    with serve(path, answers(ps={})):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_project_in_a_deep_folder_has_a_short_socket(path: Path, tmp_path: Path) -> None:
    """A socket's path may be 107 bytes long, a project's may not be limited."""
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    found = socket_path(deep, "local")
    assert len(os.fsencode(found)) < 100
    with serve(found, answers(ps={"kind": "stack"})):
        assert ask(found, "ps") == {"kind": "stack"}


def test_projects_and_environments_have_sockets_of_their_own(path: Path, tmp_path: Path) -> None:
    """Two clones on one machine do not answer for each other; two names of one folder do."""
    (tmp_path / "link").symlink_to(tmp_path)
    found = {socket_path(tmp_path, "local"), socket_path(tmp_path, "other"), socket_path(tmp_path / "x", "local")}
    assert len(found) == 3
    assert socket_path(tmp_path / "link", "local") == path


def test_nobody_listening_is_said_with_what_starts_it(path: Path) -> None:
    """No socket, or one that a killed `up` left behind."""
    with pytest.raises(NotRunning, match="not running") as caught:
        ask(path, "ps")
    assert "up -d" in caught.value.hint
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with pytest.raises(NotRunning):
        ask(path, "ps")


def test_a_dead_socket_is_taken_over_and_removed_at_the_end(path: Path) -> None:
    """`up` after a kill -9 starts without help."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serve(path, answers(ps={"kind": "stack"})):
        assert ask(path, "ps") == {"kind": "stack"}
    assert not path.exists()


def test_an_error_travels_with_its_hint(path: Path) -> None:
    """What `up` refuses, the asking terminal says in the same words; the server lives on."""

    def fail() -> Mapping[str, Any]:
        raise TidegateError("The disk is full.", "Make room.")

    with serve(path, {"ps": fail, **answers(down={"kind": "down"})}):
        with pytest.raises(TidegateError, match="The disk is full") as caught:
            ask(path, "ps")
        assert caught.value.hint == "Make room."
        assert not isinstance(caught.value, NotRunning)
        with pytest.raises(TidegateError, match="There is no /nothing"):
            ask(path, "nothing")
        assert ask(path, "down") == {"kind": "down"}


def test_a_slow_answer_blocks_nobody_else(path: Path) -> None:
    """`ps` is answered while `down` still works."""
    go = threading.Event()

    def slow() -> Mapping[str, Any]:
        go.wait(10)
        return {"kind": "down"}

    with serve(path, {"down": slow, **answers(ps={"kind": "stack"})}):
        asked = threading.Thread(target=ask, args=(path, "down"))
        asked.start()
        assert ask(path, "ps") == {"kind": "stack"}
        go.set()
        asked.join(10)
        assert not asked.is_alive()


def test_an_up_that_hangs_is_not_waited_for_forever(path: Path) -> None:
    """The asking terminal gives up after its timeout, and does not say that nothing runs."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(Temporary, match="did not answer within"):
            ask(path, "ps", timeout=0.2)


def test_a_folder_that_is_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    """Somebody else may have put it there first, to read along."""
    path.parent.rmdir()
    path.parent.symlink_to(tmp_path)
    with pytest.raises(TidegateError, match="belongs to somebody else"):
        socket_path(tmp_path, "local")


def test_another_process_is_answered(path: Path) -> None:
    """The protocol is plain HTTP, so a process that shares nothing else can ask."""
    with serve(path, answers(ps={"kind": "stack"})):
        program = (
            "import sys; from pathlib import Path; from tidegate.pipelines.control import ask; "
            "print(ask(Path(sys.argv[1]), 'ps'))"
        )
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout == "{'kind': 'stack'}\n"
