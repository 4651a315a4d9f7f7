"""Lines of two processes become pairs, each once, whatever was killed or lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tidegate.serving.pairs import Pair, PairReader, record
from tidegate.serving.service.pair_log import Half, encode

NOW = 1_800_000_000.0


def half(name: str, arm: str = "stable", **changes: Any) -> Half:
    return Half(
        **{"rollout": "o-1", "id": name, "arm": arm, "unit": 1, "at": NOW, "status": 200, "seconds": 0.1} | changes
    )


def write(folder: Path, file: str, *halves: Half, end: bytes = b"") -> None:
    with (folder / file).open("ab") as opened:
        opened.write(b"".join(map(encode, halves)) + end)


def names(pairs: list[Pair]) -> list[str]:
    assert all((pair.stable.arm, pair.canary.arm) == ("stable", "shadow") for pair in pairs)
    assert all(pair.stable.id == pair.canary.id for pair in pairs)
    return [pair.stable.id for pair in pairs]


def test_halves_meet_across_files_and_reads(tmp_path: Path) -> None:
    """Whichever comes first; several workers of one release write files of their own."""
    reader = PairReader(tmp_path, "o-1")
    assert reader.read(NOW) == []
    write(tmp_path, "r-1.1.000000.jsonl", half("a"), half("b"))
    write(tmp_path, "r-1.2.000000.jsonl", half("c"))
    assert reader.read(NOW) == []
    write(tmp_path, "r-2.3.000000.jsonl", half("c", "shadow"), half("a", "shadow"), half("d", "shadow"))
    assert names(reader.read(NOW)) == ["c", "a"]
    write(tmp_path, "r-1.2.000001.jsonl", half("d"))
    write(tmp_path, "r-2.3.000000.jsonl", half("b", "shadow"))
    assert names(reader.read(NOW)) == ["d", "b"]
    assert reader.read(NOW) == []


def test_a_torn_line_and_another_rollout_are_passed_over(tmp_path: Path) -> None:
    """A line is read when it is whole, and one that a kill cut short never is."""
    reader = PairReader(tmp_path, "o-1")
    write(tmp_path, "r-2.3.000000.jsonl", half("a", "shadow"), half("b", "shadow"))
    whole = encode(half("a"))
    write(tmp_path, "r-1.1.000000.jsonl", half("b", rollout="o-0"), end=whole[:20])
    assert reader.read(NOW) == []
    write(tmp_path, "r-1.1.000000.jsonl", end=whole[20:])
    write(tmp_path, "r-1.1.000000.jsonl", end=b'{"rollout": "o-1", "id"\n[]\n\n')
    write(tmp_path, "r-1.1.000000.jsonl", half("b"))
    assert names(reader.read(NOW)) == ["a", "b"]


def test_a_reader_goes_on_where_another_one_kept_its_state(tmp_path: Path) -> None:
    """Each pair once, and a half that waited still waits."""
    first = PairReader(tmp_path, "o-1")
    predicted = {"predictions": ["yes"], "scores": [{"no": 0.1, "yes": 0.9}]}
    write(tmp_path, "r-1.1.000000.jsonl", half("a"), half("b", **predicted))
    write(tmp_path, "r-2.3.000000.jsonl", half("a", "shadow"))
    assert names(first.read(NOW)) == ["a"]
    state = json.loads(json.dumps(first.state()))
    write(tmp_path, "r-2.3.000000.jsonl", half("b", "shadow"))
    (pair,) = PairReader(tmp_path, "o-1", state).read(NOW)
    assert (pair.stable, pair.canary) == (half("b", **predicted), half("b", "shadow"))


def test_a_half_without_another_is_forgotten(tmp_path: Path) -> None:
    """After a minute, and the oldest when there are many: memory stays bounded."""
    reader = PairReader(tmp_path, "o-1")
    write(tmp_path, "r-1.1.000000.jsonl", half("old", at=NOW - 61), *(half(f"n-{n}") for n in range(3000)))
    reader.read(NOW)
    write(tmp_path, "r-2.3.000000.jsonl", half("old", "shadow"), half("n-2999", "shadow"))
    assert names(reader.read(NOW)) == ["n-2999"]
    reader.read(NOW + 1)
    assert len(reader.state()["waiting"]) <= 2000


@pytest.mark.parametrize("read_between", [True, False])
def test_a_folder_that_was_made_again_is_read_from_its_beginning(tmp_path: Path, read_between: bool) -> None:
    """Its files may have the names of before."""
    folder = tmp_path / "run" / "pairs"
    record(folder, on=True)
    record(folder, on=True)
    reader = PairReader(folder, "o-1")
    write(folder, "r-1.1.000000.jsonl", half("a"), half("b"))
    reader.read(NOW)
    record(folder, on=False)
    record(folder, on=False)
    assert not folder.exists()
    if read_between:
        assert reader.read(NOW) == []
    record(folder, on=True)
    write(folder, "r-1.1.000000.jsonl", half("c"))
    write(folder, "r-2.3.000000.jsonl", half("c", "shadow"), half("a", "shadow"))
    assert names(reader.read(NOW)) == ["c", "a"]
