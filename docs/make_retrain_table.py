"""Replay elec.csv in order of time under several policies and print the table of docs/retrain.md; two minutes.

The loop is that of tests/simulation: production's own decisions, with a promotion that takes effect at the next window.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402 - after the path
import pandas as pd  # noqa: E402
from simulation.drift_loop import Loop  # noqa: E402
from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: E402

from tidegate.core.config_live import Monitor, Retrain  # noqa: E402

WINDOW = 2_000
HOLDOUT = 0.2
POLICIES = (("1", "2h", "0.05"), ("2", "2h", "0.05"), ("2", "2h", "0.02"), ("2", "6h", "0.05"), ("3", "6h", "0.05"))


def fit(inputs: Any, truth: Any) -> Any:
    """The model of all rows of the table."""
    return HistGradientBoostingClassifier(random_state=0).fit(inputs, truth)


def every_window(inputs: Any, truth: Any, first: int) -> float:
    """The accuracy of retraining at every window and promoting whatever comes out."""
    found = []
    for start in range(first, len(truth) - WINDOW + 1, WINDOW):
        learnt = slice(start - first, start - round(first * HOLDOUT))
        model = fit(inputs[learnt], truth[learnt])
        found.append((model.predict(inputs[start : start + WINDOW]) == truth[start : start + WINDOW]).mean())
    return float(np.mean(found))


def main() -> None:
    """Print the table."""
    frame = pd.read_csv(ROOT.parent / "shared" / "data" / "elec.csv")
    inputs, truth = frame.drop(columns="class").to_numpy(), frame["class"].to_numpy()
    first = round(len(truth) * HOLDOUT)
    sys.stdout.write(
        "| windows | cooldown | tolerance | accuracy | trainings | to a former champion |\n|-|-|-|-|-|-|\n"
    )
    never = 0.0
    for windows, cooldown, tolerance in POLICIES:
        monitor = {"window": "1h", "drift": {"windows": int(windows)}, "quality": {"tolerance": float(tolerance)}}
        retrain = {"cooldown": cooldown, "budget": {"runs": 4, "per": "24h"}}
        played = Loop(
            inputs, truth, fit, first, WINDOW, Monitor.model_validate(monitor), Retrain.model_validate(retrain)
        ).run()
        outcomes = [outcome for _, outcome in played.outcomes()]
        never = float(np.mean(played.never()))
        sys.stdout.write(
            f"| {windows} | {cooldown} | {tolerance} | {np.mean(played.accuracy):.3f} | "
            f"{len(outcomes) - outcomes.count('former')} | {outcomes.count('former')} |\n"
        )
    sys.stdout.write(f"never {never:.3f}, every window {every_window(inputs, truth, first):.3f}\n")


if __name__ == "__main__":
    main()
