"""The pictures of an evaluation, drawn without pyplot (which would look for a display) and without fonts to fetch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from tidegate.core.metrics import Scored

# Every plot has one series, so it has one ink; text is never coloured.
_INK = "#2563a8"
_GREY = "#8a8f98"
_BINS = 10
_MAX_POINTS = 5_000
_MAX_CLASSES = 30


def confusion(file: Path, scored: Scored) -> None:
    """Shares of the predicted labels within each true one, with the counts written in."""
    import numpy as np

    labels = list(scored.classes)[:_MAX_CLASSES]
    counts = np.array([[((scored.truth == a) & (scored.prediction == b)).sum() for b in labels] for a in labels])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.2, 0.55 * len(labels) + 1.8)
    figure, axes = _figure(side, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if shares[row, column] > 0.6 else "black"  # noqa: PLR2004 - readable on the dark half of the map
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=ink, fontsize=8)
    places = range(len(labels))
    axes.set_xticks(places, [str(label) for label in labels], rotation=45 if len(labels) > 4 else 0)  # noqa: PLR2004 - labels that would touch
    axes.set_yticks(places, [str(label) for label in labels])
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix, holdout")
    figure.savefig(file)


def calibration(file: Path, probability: NDArray[np.floating], outcome: NDArray[Any]) -> None:
    """Mean probability against the share of outcomes, in ten bins of equally many rows."""
    import numpy as np

    figure, axes = _figure(4, 4)
    order = np.argsort(probability, kind="stable")
    bins = [part for part in np.array_split(order, _BINS) if len(part)]
    said = [probability[part].mean() for part in bins]
    seen = [outcome[part].mean() for part in bins]
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    axes.plot(said, seen, color=_INK, marker="o", markersize=4)
    axes.set(xlabel="predicted probability", ylabel="observed share", title="Calibration, holdout")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    figure.savefig(file)


def residuals(file: Path, truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> None:
    """What is left over (true minus predicted) against the prediction."""
    import numpy as np

    figure, axes = _figure(5, 4)
    step = max(1, len(truth) // _MAX_POINTS)
    shown = np.arange(0, len(truth), step)
    axes.axhline(0, color=_GREY, linewidth=1, linestyle="--")
    axes.scatter(prediction[shown], (truth - prediction)[shown], s=6, alpha=0.4, color=_INK, linewidths=0)
    axes.set(xlabel="predicted", ylabel="true minus predicted", title="Residuals, holdout")
    figure.savefig(file)


def _figure(width: float, height: float) -> tuple[Any, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
