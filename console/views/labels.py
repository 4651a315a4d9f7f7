"""How many labels came, and how soon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.core.units import span
from tidegate.rollouts.charts import Axis, Chart, Line


@dataclass(frozen=True, slots=True)
class Labels:
    """What the quality page says of labels: (name, text) pairs, and the curve of how soon they come."""

    facts: tuple[tuple[str, str], ...]
    chart: Chart | None


def labels(document: Mapping[str, Any]) -> Labels | None:
    """From the document of `labels status`; None where no prediction was recorded."""
    if not document["predictions"]:
        return None
    maturity = document["maturity"]
    suggested, configured = maturity["suggested"], float(maturity["configured"])
    facts = [
        ("predictions of the last 30 days", f"{document['predictions']:,}"),
        ("with a label", f"{document['labelled']:,} ({100 * document['share_labelled']:.0f} %)"),
        ("count as mature after", span(configured)),
        ("95 % of the labels are there after", span(suggested) if suggested else "too early to say"),
        ("labels that name no prediction", f"{document['unknown']:,}"),
        ("labels by a name of several", f"{document['ambiguous']:,}"),
    ]
    strange = ", ".join(f"{label} ({count:,})" for label, count in document["strange"].items())
    curve = [(0.0, 0.0), *((float(one["age"]), float(one["share"])) for one in maturity["curve"])]
    named = [*facts, ("no answer of the model", strange)] if strange else facts
    return Labels(tuple(named), maturity_chart(curve, configured) if len(curve) > 1 else None)


def maturity_chart(points: Sequence[tuple[float, float]], maturity: float) -> Chart | None:
    """The share of predictions labelled (0 to 1) within an age (seconds), and the age that counts as mature."""
    if len(points) < 2:  # noqa: PLR2004 - a line needs two points
        return None
    from tidegate.rollouts.charts import Mark, time_axis

    axis = time_axis(max(points[-1][0], 1.05 * maturity))
    ticks = tuple((float(at), str(at)) for at in (0, 25, 50, 75, 100))
    return Chart(
        "How soon labels come",
        f"In the end {100 * points[-1][1]:.0f} % of the predictions are labelled.",
        axis,
        Axis(0, 104, ticks, "per cent labelled"),
        [Line("effect", "labelled within this age", [(x, 100 * y) for x, y in points])],
        (),
        [Mark(maturity, "mature")],
    )
