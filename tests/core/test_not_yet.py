"""What the config asks for and nothing acts on is said, key by key."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.core.config import Config
from tidegate.core.not_yet import _KEYS, not_yet

BASE: dict[str, Any] = {"model": "demand", "data": {"path": "data/train.csv", "target": "class"}}
ASKED: dict[str, dict[str, Any]] = {
    "train.image": {"train": {"image": "trainer"}},
    "train.resources": {"train": {"resources": {"gpu": 1}}},
}


def test_a_config_of_defaults_asks_for_nothing_more() -> None:
    """Neither does one that writes a default down."""
    assert not_yet(Config.model_validate(BASE)) == ()
    assert not_yet(Config.model_validate(BASE | {"rollout": {"shadow": False}, "train": {"params": {"C": 1}}})) == ()


@pytest.mark.parametrize("path", [path for path, _ in _KEYS])
def test_each_key_of_the_table_is_said_by_its_name(path: str) -> None:
    """One sentence, which names the key and what happens instead."""
    (sentence,) = not_yet(Config.model_validate(BASE | ASKED[path]))
    assert sentence.startswith(f"{path} is set, but this version does not act on it yet: ")
