"""Which columns of a window were recorded in another way than the reference has them: no move of theirs is drift.

`serve.capture` may change while a release serves, and a process goes by what it was started with. So each file of
records says what it hides, and a reference what was hidden when it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate.serving.telemetry import Captured, Hidden


def unlike(known: Hidden | None, captured: Sequence[Captured], columns: Iterable[str]) -> Mapping[str, str]:
    """The columns that cannot be compared, and since when, in a sentence.

    Args:
        known: what the reference hides; None: it does not say, and is believed to be as the records are.
        captured: what the window's records hide, the earliest first.
        columns: of the reference.
    """
    if known is None:
        return {}
    found = {}
    for name in columns:
        other = next((one for one in captured if one.hidden.kept(name) != known.kept(name)), None)
        if other is not None:
            found[name] = (
                f"not comparable since {other.first:%Y-%m-%d %H:%M} UTC: recorded {other.hidden.kept(name)}, and "
                f"{known.kept(name)} in the reference (serve.capture); the next release is compared again"
            )
    return found
