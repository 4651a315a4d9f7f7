"""What a broken promise is called: one sentence with the column, how many values, and where.

`nswprice: 12 of 45,312 values are below 0 (rows 3, 77, 80, ...)`; rows are counted from 1 after the header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_SHOWN: Final = 3  # rows and values named in a sentence; the JSON result has the sentence only


def sentence(kind: str, kwargs: Mapping[str, Any], result: Mapping[str, Any], raised: str, *, passed: bool) -> str:
    """Describe one result of the expectation `kind`.

    Args:
        kind: the expectation's type.
        kwargs: its arguments as written in the contract.
        result: what Great Expectations measured (`unexpected_count`, `observed_value`, ...).
        raised: the message of an exception it met, or "".
        passed: whether the promise holds.
    """
    subject = _subject(kwargs)
    if raised:
        return f"{subject}: could not be checked: {raised.splitlines()[0]}"
    if passed:
        return f"{subject}: {_promise(kind, kwargs)}"
    count = result.get("unexpected_count")
    if count:
        return f"{subject}: {_values(kind, kwargs, result, int(count))}"
    observed = result.get("observed_value")
    return f"{subject}: found {_short(observed)}; {_promise(kind, kwargs)} was promised"


def _subject(kwargs: Mapping[str, Any]) -> str:
    if isinstance(kwargs.get("column"), str):
        return str(kwargs["column"])
    named = [kwargs[key] for key in ("column_A", "column_B") if key in kwargs] or kwargs.get("column_list") or []
    return " and ".join(map(str, named)) or "the table"


def _values(kind: str, kwargs: Mapping[str, Any], result: Mapping[str, Any], count: int) -> str:
    total = int(result.get("element_count") or 0)
    rows = [int(row) + 1 for row in result.get("partial_unexpected_index_list") or [] if isinstance(row, int)]
    where = f" (row{'s' if count > 1 else ''} {', '.join(map(str, rows[:_SHOWN]))}{', ...' if count > _SHOWN else ''})"
    mostly = kwargs.get("mostly")
    allowed = f"; at most {100 * (1 - float(mostly)):.3g} % may be" if mostly is not None and float(mostly) < 1 else ""
    verb = "is" if count == 1 else "are"
    head = f"{count:,} of {total:,} values" if total else f"{count:,} values"
    return f"{head} {verb} {_fault(kind, kwargs, result)}{where if rows else ''}{allowed}"


def _fault(kind: str, kwargs: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    if kind == "expect_column_values_to_not_be_null":
        return "missing"
    if kind == "expect_column_values_to_be_unique":
        return f"not unique, for instance {_examples(result)}"
    if kind == "expect_column_values_to_be_between":
        low, high = kwargs.get("min_value"), kwargs.get("max_value")
        side = f"below {low}" if high is None else f"above {high}" if low is None else f"outside {low} to {high}"
        return f"{side}, for instance {_examples(result)}"
    if kind == "expect_column_values_to_be_in_set":
        return f"none of {_short(kwargs.get('value_set'))}, for instance {_examples(result)}"
    return f"not as promised ({_promise(kind, kwargs)}), for instance {_examples(result)}"


def _examples(result: Mapping[str, Any]) -> str:
    seen = list(dict.fromkeys(map(_short, result.get("partial_unexpected_list") or [])))
    return ", ".join(seen[:_SHOWN]) or "unknown"


def _promise(kind: str, kwargs: Mapping[str, Any]) -> str:
    words = kind.removeprefix("expect_").replace("_", " ")
    rest = ", ".join(
        f"{key} {_short(value)}" for key, value in kwargs.items() if not key.startswith("column") and key != "mostly"
    )
    return f"{words}{': ' + rest if rest else ''}"


def _short(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - what fits into a sentence
