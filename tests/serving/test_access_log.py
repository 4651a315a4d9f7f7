"""The log reader: every complete record exactly once, however the bytes arrive and whenever the file rotates."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.gateway.access_log import (
    AccessLogReader,
    AccessRecord,
    LogPosition,
    end_torn_line,
    parse_record,
    rotated_path,
)
from tidegate.serving.gateway.state import (
    GatewayState,
    Upstream,
    cluster_name,
    parse_cluster,
    parse_route,
    parse_upstream,
    route_name,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,20}", fullmatch=True)


def line(number: int, **changes: object) -> bytes:
    """Return one line as Envoy writes it."""
    fields = {
        "at": str(1_795_346_898_870_512 + number),
        "request": f"id-{number}",
        "unit": f"user-{number}",
        "cluster": "canary/r-2/127.0.0.1:8500",
        "route": "split/ro-1/25",
        "status": 200,
        "flags": "-",
        "details": "via_upstream",
        "upstream": "127.0.0.1:8500",
        "total_us": 1500,
        "stream_ms": 2,
        "upstream_us": 1200,
        "prediction": f"p-{number}",
        "version": "7",
        "method": "POST",
        "path": "/predict",
    }
    return json.dumps(fields | changes).encode() + b"\n"


def test_a_line_becomes_a_typed_record() -> None:
    """Times in seconds, arm and release from the cluster, rollout and weight from the route."""
    record = parse_record(line(0))
    assert record == AccessRecord(
        at=1_795_346_898.870512,
        request="id-0",
        unit="user-0",
        arm="canary",
        release="r-2",
        kind="split",
        rollout="ro-1",
        weight=25,
        status=200,
        flags=(),
        details="via_upstream",
        upstream="127.0.0.1:8500",
        seconds=0.0015,
        upstream_seconds=0.0012,
        prediction="p-0",
        version="7",
        invalid=False,
        method="POST",
        path="/predict",
    )


@pytest.mark.parametrize(
    ("changes", "attempted", "failed", "left"),
    [
        ({}, True, False, False),
        ({"status": 422}, True, False, False),
        ({"status": 500}, True, True, False),
        ({"status": 503, "flags": "UF", "details": "upstream_reset_before_response_started{...}"}, True, True, False),
        ({"status": 504, "flags": "UT", "details": "response_timeout"}, True, True, False),
        ({"status": 200, "flags": "UC"}, True, True, False),
        ({"status": 401, "details": "missing_api_key"}, False, False, False),
        ({"status": 429, "flags": "RL", "details": "local_rate_limited"}, False, False, False),
        ({"status": 0, "flags": "DC", "details": "downstream_remote_disconnect"}, True, False, True),
        ({"status": 0, "flags": "DC", "details": "downstream_x", "upstream": None}, False, False, True),
    ],
)
def test_an_answer_is_held_against_the_arm_only_if_the_arm_was_asked(
    changes: dict[str, object], attempted: bool, failed: bool, left: bool
) -> None:
    """The edge's refusals and the client's departures are neither success nor failure of a model."""
    record = parse_record(line(0, **changes))
    assert (record.attempted, record.failed, record.left) == (attempted, failed, left)


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["read", "rotate", "reopen", "restart"])), max_size=60))
def test_any_chunking_rotation_and_restart_reads_each_record_once(events: list[tuple[int, str]]) -> None:
    """Bytes arrive in any pieces; files rotate; readers are rebuilt from their saved position."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "access.jsonl"
        stream = b"".join(line(number) for number in range(30))
        writer, reader, got, sequence, written = path.open("ab"), AccessLogReader(path), [], 0, b""
        for size, event in events:
            piece, stream = stream[:size], stream[size:]
            written += piece
            writer.write(piece)
            writer.flush()
            if event == "rotate" and path.exists():
                # Envoy goes on writing to the renamed file until it is told to reopen, and flushes whole lines first.
                sequence += 1
                path.rename(rotated_path(path, sequence))
            elif event == "reopen":
                rest = 0 if written[-1:] in {b"", b"\n"} else stream.find(b"\n") + 1
                written += stream[:rest]
                writer.write(stream[:rest])
                stream = stream[rest:]
                writer.close()
                writer = path.open("ab")
            elif event == "restart":
                reader = AccessLogReader(path, reader.position)
            got += reader.read()
        writer.write(stream)
        writer.close()
        path.touch()
        got += reader.read()
        assert [record.request for record in got] == [f"id-{number}" for number in range(30)]
        assert reader.torn == 0


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    """Kill -9 in the middle of a write: the fragment is ended, counted and skipped."""
    path = tmp_path / "access.jsonl"
    path.write_bytes(line(0) + line(1)[:40])
    reader = AccessLogReader(path)
    assert [record.request for record in reader.read()] == ["id-0"]
    end_torn_line(path)
    end_torn_line(path)
    with path.open("ab") as file:
        file.write(b"\n\xff\xfe\n[1]\n" + line(2))
    assert [record.request for record in reader.read()] == ["id-2"]
    assert reader.torn == 3


def test_a_reader_that_was_away_while_files_were_deleted_goes_on_with_the_oldest_left(tmp_path: Path) -> None:
    """What is gone is gone; what is there is read."""
    path = tmp_path / "access.jsonl"
    rotated_path(path, 4).write_bytes(line(4))
    path.write_bytes(line(5))
    reader = AccessLogReader(path, LogPosition(2, 1234))
    assert [record.request for record in reader.read()] == ["id-4", "id-5"]
    assert reader.position.sequence == 5


def test_there_is_nothing_to_read_before_the_first_request(tmp_path: Path) -> None:
    """A missing file is no error."""
    reader = AccessLogReader(tmp_path / "access.jsonl")
    assert (reader.read(), reader.position) == ([], LogPosition(1, 0))


@given(NAMES, st.integers(1, 65535), NAMES, st.integers(0, 100))
def test_names_survive_the_way_through_envoy(release: str, port: int, rollout: str, weight: int) -> None:
    """Format and parse are inverse."""
    upstream = Upstream(release, port)
    assert parse_cluster(cluster_name("canary", upstream)) == ("canary", release)
    assert parse_cluster(cluster_name("shadow", upstream)) is None
    assert parse_upstream(cluster_name("stable", upstream)) == upstream
    state = GatewayState(upstream, upstream, rollout=rollout, weight=weight)
    assert parse_route(route_name("split", state)) == ("split", rollout, weight)
