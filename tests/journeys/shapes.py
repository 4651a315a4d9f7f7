"""Tables as people have them: made small, so that a test can take each of them down the whole road."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

ROWS = 600


@dataclass(frozen=True)
class Shape:
    """A table, what init is told about it, and what comes out: the labels, or None for numbers."""

    make: Callable[[np.random.Generator], pd.DataFrame]
    target: str
    labels: tuple[object, ...] | None
    arguments: tuple[str, ...] = ()
    suffix: str = ".csv"
    written: dict[str, Any] | None = None

    def write(self, folder: Path, name: str) -> Path:
        """The file in `folder`."""
        frame = self.make(np.random.default_rng(0))
        file = folder / f"{name}{self.suffix}"
        if self.suffix == ".parquet":
            frame.to_parquet(file, index=False)
        else:
            frame.to_csv(file, index=False, **(self.written or {}))
        return file


def gaps(values: Any, rng: np.random.Generator, share: float = 0.1) -> pd.Series[Any]:
    """Some of the values missing."""
    import pandas as pd

    column = pd.Series(values)
    return column.where(rng.random(len(column)) > share)


def odd(rng: np.random.Generator, count: int = ROWS) -> pd.DataFrame:
    """Text, times, days, gaps, booleans, and names that are no identifiers in any language."""
    import pandas as pd

    frame = pd.DataFrame({"Größe (cm)": gaps(rng.normal(170, 10, count).round(1), rng)})
    frame["class"] = rng.choice(["A", "B", "C'x", 'd "q"'], count)
    frame["a b"] = rng.integers(0, 100, count)
    frame["1st"] = gaps(rng.choice(["red", "green", "blue"], count), rng)
    frame["x.y"] = rng.normal(size=count)
    frame["select"] = rng.random(count) < 0.4
    frame["🚀 it's"] = gaps(rng.choice(["ü", "ß", "日本"], count), rng, 0.3)
    frame["member"] = gaps(rng.choice(["true", "false"], count), rng)
    frame["signed up"] = gaps(pd.date_range("2020-01-01", periods=count, freq="9h").strftime("%Y-%m-%d %H:%M:%S"), rng)
    frame["born"] = pd.date_range("1950-01-01", periods=count, freq="5D").strftime("%Y-%m-%d")
    lift = frame["x.y"] + (frame["class"] == "A") * 1.5 + frame["a b"] / 50 - 1
    frame["bought?"] = np.where(rng.random(count) < 1 / (1 + np.exp(-2 * lift)), "yes", "no")
    return frame


def typed(rng: np.random.Generator) -> pd.DataFrame:
    """The same with the types that parquet can hold."""
    import pandas as pd

    frame = odd(rng)
    for name in ("born", "signed up"):
        frame[name] = pd.to_datetime(frame[name])
    frame["member"] = frame["member"].map({"true": True, "false": False}).astype("boolean")
    frame["1st"] = frame["1st"].astype("category")
    return frame


def wide(rng: np.random.Generator) -> pd.DataFrame:
    """300 columns of every kind."""
    import pandas as pd

    makers: tuple[Callable[[], Any], ...] = (
        lambda: gaps(rng.normal(size=ROWS), rng),
        lambda: rng.integers(0, 50, ROWS),
        lambda: gaps(rng.choice(list("abcde"), ROWS), rng),
        lambda: rng.random(ROWS) < 0.5,
        lambda: rng.choice([f"v{i}" for i in range(60)], ROWS),
        lambda: rng.normal(size=ROWS).round(3),
    )
    frame = pd.DataFrame({f"col {i}": makers[i % len(makers)]() for i in range(300)})
    frame["y"] = (2 * frame["col 0"].fillna(0) + frame["col 5"] + rng.normal(size=ROWS) > 0).astype(int)
    return frame


def shop(rng: np.random.Generator) -> pd.DataFrame:
    """A quantity over time."""
    import pandas as pd

    times = pd.date_range("2022-01-01", periods=ROWS, freq="h").strftime("%Y-%m-%d %H:%M")
    frame = pd.DataFrame({"timestamp": times, "temp": rng.normal(15, 5, ROWS).round(2)})
    frame["shop"], frame["open"] = rng.choice(["north", "south"], ROWS), rng.random(ROWS) < 0.8
    north = np.where(frame["shop"] == "north", 20, 0)
    frame["sales"] = (100 + 3 * frame["temp"] + north + rng.normal(0, 5, ROWS)).round(2)
    return frame


def species(rng: np.random.Generator, count: int = ROWS) -> pd.DataFrame:
    """Three labels of text."""
    import pandas as pd

    frame = pd.DataFrame({"l": rng.normal(size=count), "w": rng.normal(size=count)})
    frame["soil"] = rng.choice(["clay", "sand"], count)
    frame["species"] = np.select([frame.l + rng.normal(0, 0.3, count) > 0.5, frame.w > 0], ["b", "c"], "a")
    return frame


def unlabelled(rng: np.random.Generator) -> pd.DataFrame:
    """The same with labels that nobody has given yet."""
    frame = species(rng)
    frame["species"] = gaps(frame["species"], rng)
    return frame


def fraud(rng: np.random.Generator) -> pd.DataFrame:
    """One positive in a hundred."""
    import pandas as pd

    frame = pd.DataFrame({"amount": rng.exponential(50, 3000).round(2), "country": rng.choice(["de", "fr"], 3000)})
    score = frame["amount"] + rng.normal(0, 20, 3000)
    frame["fraud"] = (score > np.quantile(score, 0.99)).astype(int)
    return frame


def texts(rng: np.random.Generator) -> pd.DataFrame:
    """Nothing but text of many values, one of them prose."""
    import pandas as pd

    frame = pd.DataFrame({"city": rng.choice([f"city {i}" for i in range(300)], ROWS)})
    frame["product"] = rng.choice([f"p-{i}" for i in range(200)], ROWS)
    frame["note"] = [f"order {i} of {rng.integers(10**9)} things" for i in range(ROWS)]
    frame["ok"] = np.where((frame["city"].str[-1] > "4") ^ (rng.random(ROWS) < 0.1), "good", "bad")
    return frame


SHAPES = {
    "odd": Shape(odd, "bought?", (False, True)),
    "wide": Shape(wide, "y", (0, 1)),
    "time": Shape(shop, "sales", None, ("--time", "timestamp")),
    "labels": Shape(species, "species", ("a", "b", "c")),
    "parquet": Shape(typed, "bought?", (False, True), suffix=".parquet"),
    "tiny": Shape(lambda rng: species(rng, 60), "species", ("a", "b", "c")),
    "rare": Shape(fraud, "fraud", (0, 1)),
    "unlabelled": Shape(unlabelled, "species", ("a", "b", "c")),
    "texts": Shape(texts, "ok", ("bad", "good")),
    "semicolons": Shape(shop, "sales", None, ("--time", "timestamp"), written={"sep": ";", "decimal": ","}),
}
