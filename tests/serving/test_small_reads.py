"""Small reads of the records beside whoever answers users."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.core.errors import Temporary
from tidegate.serving.small_reads import small_connection


def test_a_file_that_went_meanwhile_is_no_answer_and_worth_another_try(tmp_path: Path) -> None:
    """It was listed, then compacted or too old: what is said names what was read."""
    gone = str(tmp_path / "compacted.parquet")
    with (
        pytest.raises(Temporary, match="The users' predictions cannot be read now"),
        small_connection("The users' predictions") as opened,
    ):
        opened.read_parquet(gone).fetchall()
