"""Durations and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.units import format_duration, format_size, parse_duration, parse_size, span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("2m", 120),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("50ms", 0.05),
        ("30d", 2592000),
        ("1w", 604800),
        ("0", 0),
    ],
)
def test_a_duration_means_what_it_says(text: str, seconds: float) -> None:
    """Each unit has its usual length."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("200MB", 200_000_000), ("8Gi", 8 * 2**30), ("8GiB", 8 * 2**30), ("1.5kB", 1500), ("512", 512)]
)
def test_a_size_means_what_it_says(text: str, size: int) -> None:
    """MB is decimal, Mi is binary."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "2", "2 minutes", "-1s", "m", "1e3s", "2m!", "\u0662m", "9" * 99 + "s", "0.0000000001s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A bare number has no unit, and nothing is guessed."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "big", "1XB", "-1MB", "0.3", "1.0000000001GB", "1e6"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Neither unknown units nor parts of a byte."""
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text)


@given(st.just(0.0) | st.floats(min_value=1e-9, max_value=1e12))
def test_a_printed_duration_reads_back_exactly(seconds: float) -> None:
    """Printing loses nothing, or a stored release would differ from its config."""
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=2**59))
def test_a_printed_size_reads_back_exactly(size: int) -> None:
    """The same for bytes."""
    assert parse_size(format_size(size)) == size


@given(st.text(max_size=30))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    """No input makes the parsers fail in another way."""
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert "write for instance" in str(error) or "whole number" in str(error)  # noqa: PT017 - both ways are fine


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (45, "45 s"),
        (59.6, "1 min"),
        (133, "2 min 13 s"),
        (3605, "1 h"),
        (12_000, "3 h 20 min"),
        (190_000, "2 d 4 h"),
    ],
)
def test_a_time_is_told_in_two_units(seconds: float, text: str) -> None:
    """As a person would say it; what is smaller does not matter."""
    assert span(seconds) == text
