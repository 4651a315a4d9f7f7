"""A project in which nothing has happened, the same after much has, and who asks its console."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from happened import OPERATOR, client, empty, fill, opened, served

from tidegate.pipelines.environment import Environment

if TYPE_CHECKING:
    import httpx


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A project in which nothing has happened."""
    return empty(tmp_path)


@pytest.fixture(scope="session")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `busy` is a copy of: filled once, since every event is made durable."""
    return fill(empty(tmp_path_factory.mktemp("happened"))).project.root


@pytest.fixture
def busy(_filled: Path, tmp_path: Path) -> Environment:
    """After two rollouts, of which one runs, with windows that drift in the end."""
    return opened(Path(shutil.copytree(_filled, tmp_path / "busy")))


@pytest.fixture
def operator(busy: Environment) -> Iterator[httpx.Client]:
    """Asks the console of `busy` as a program with the operator's token."""
    with served(busy) as address, client(address, OPERATOR) as asking:
        yield asking
