"""What the config asks for and nothing acts on is said, key by key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.core import not_yet as not_yet_module
from tidegate.core.config import Config
from tidegate.core.not_yet import not_yet

if TYPE_CHECKING:
    import pytest

BASE: dict[str, Any] = {"model": "demand", "data": {"path": "data/train.csv", "target": "class"}}


def test_a_config_of_defaults_asks_for_nothing_more() -> None:
    """Neither does one that writes a default down."""
    assert not_yet(Config.model_validate(BASE)) == ()
    assert not_yet(Config.model_validate(BASE | {"rollout": {"shadow": False}, "train": {"params": {"C": 1}}})) == ()


def test_every_key_of_the_format_acts() -> None:
    """Whoever adds one that does nothing yet writes it into the table, and this line goes."""
    assert not_yet_module._KEYS == ()


def test_a_key_of_the_table_is_said_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, which names the key and what happens instead; a section stands for all its keys."""
    monkeypatch.setattr(not_yet_module, "_KEYS", (("train.resources", "training takes what this machine has"),))
    (sentence,) = not_yet(Config.model_validate(BASE | {"train": {"resources": {"gpu": 1}}}))
    assert sentence == (
        "train.resources is set, but this version does not act on it yet: training takes what this machine has."
    )
