"""The ledger: order, collisions, damage."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import TidegateError
from tidegate.core.store import open_store
from tidegate.registry.ledger import SEGMENT, Draft, Event, Ledger


def always(kind: str, **data: object) -> object:
    return lambda _: Draft(kind, data)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_store(str(tmp_path)), "demand.local")


def test_events_come_back_in_the_order_they_were_written(ledger: Ledger, tmp_path: Path) -> None:
    """A second reader sees the same events with actor and time."""
    for number in range(3):
        ledger.append(lambda _, number=number: Draft("frozen", {"reason": str(number)}))
    again = Ledger(open_store(str(tmp_path)), "demand.local").events()
    assert [event.data["reason"] for event in again] == ["0", "1", "2"]
    assert [event.seq for event in again] == [0, 1, 2]
    assert all("@" in event.actor and event.moment.tzinfo for event in again)


def test_a_decision_for_nothing_writes_nothing(ledger: Ledger) -> None:
    """None from the decision adds no event."""
    assert ledger.append(lambda _: None) is None
    assert ledger.events() == ()


def test_a_lost_event_is_no_shorter_past(ledger: Ledger, tmp_path: Path) -> None:
    """A hole is an error that names the file: deciding on what came before it would undo what came after."""
    for number in range(4):
        ledger.append(lambda _, number=number: Draft("frozen", {"reason": str(number)}))
    (tmp_path / "ledger" / "demand.local" / "00000001.json").unlink()
    again = Ledger(open_store(str(tmp_path)), "demand.local")
    for attempt in (again.events, lambda: again.append(lambda _: Draft("unfrozen", {"reason": "x"}))):
        with pytest.raises(TidegateError, match=r"00000001\.json is missing"):
            attempt()
    assert len(list((tmp_path / "ledger" / "demand.local").glob("*.json"))) == 3


def test_the_loser_of_a_race_decides_again_on_what_the_winner_wrote(tmp_path: Path) -> None:
    """Of writers that each allow only one event, exactly one writes."""
    barrier = threading.Barrier(6)
    wrote: list[Event | None] = []

    def race(name: str) -> None:
        ledger = Ledger(open_store(str(tmp_path)), "s")
        ledger.events()
        barrier.wait()
        wrote.append(ledger.append(lambda past: None if past else Draft("frozen", {"reason": name})))

    threads = [threading.Thread(target=race, args=(str(name),)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(event is not None for event in wrote) == 1
    assert len(Ledger(open_store(str(tmp_path)), "s").events()) == 1


def test_many_writers_lose_no_event(tmp_path: Path) -> None:
    """Concurrent appends all land, each at its own number."""

    def write(name: int) -> None:
        ledger = Ledger(open_store(str(tmp_path)), "s")
        for count in range(10):
            ledger.append(lambda _, n=name, c=count: Draft("frozen", {"reason": f"{n}.{c}"}))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reasons = [event.data["reason"] for event in Ledger(open_store(str(tmp_path)), "s").events()]
    assert len(reasons) == len(set(reasons)) == 40


def test_segments_hold_the_same_events(tmp_path: Path) -> None:
    """A reader that starts from a segment sees what one that starts from the files sees."""
    ledger = Ledger(open_store(str(tmp_path)), "s")
    for number in range(SEGMENT + 5):
        ledger.append(lambda _, n=number: Draft("frozen", {"reason": str(n)}))
    with_segment = Ledger(open_store(str(tmp_path)), "s").events()
    for segment in (tmp_path / "ledger/s/segments").iterdir():
        segment.unlink()
    assert Ledger(open_store(str(tmp_path)), "s").events() == with_segment
    assert len(with_segment) == SEGMENT + 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"seq": 7}', b"\xff"])
def test_a_damaged_event_stops_everything(ledger: Ledger, tmp_path: Path, content: bytes) -> None:
    """A file that is no event is an error that names it, never skipped."""
    ledger.append(always("frozen", reason="a"))
    ledger.append(always("frozen", reason="b"))
    (tmp_path / "ledger/demand.local/00000001.json").write_bytes(content)
    with pytest.raises(TidegateError, match=r"00000001\.json"):
        Ledger(open_store(str(tmp_path)), "demand.local").events()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(kind=st.text(), actor=st.text(), data=st.dictionaries(st.text(), json_values))
def test_an_event_survives_its_file(kind: str, actor: str, data: dict[str, object]) -> None:
    """`from_json` reads exactly what `to_json` wrote."""
    event = Event(3, "2026-01-01T00:00:00+00:00", kind, actor, data)
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event
