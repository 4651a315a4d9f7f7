"""The rows that a model learnt from, known again in whatever data comes later.

A champion answers rows that it learnt from better than any other, so it is compared only on the rest. Which rows those
are must not hang on today's configuration: the split, the columns and what they are read as may all have changed since
it was trained. So every evaluation leaves a file of row keys (row_keys.py), which its MLflow run keeps.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate.core.errors import TidegateError
from tidegate.pipelines.row_keys import VERSION, row_keys, value_keys

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from tidegate.core.config import Split
    from tidegate.pipelines.row_keys import Keys

    Mask = npt.NDArray[np.bool_]

LEARNT_FILE: Final = "learnt.npz"


@dataclass(frozen=True)
class Learnt:
    """Keys of training rows: sorted uint64, each once, made of the values in `columns`.

    With `groups` there is one column and a key for each group: a row of a known group counts as learnt from.
    """

    columns: tuple[str, ...]
    keys: Keys
    groups: bool = False

    def among(self, frame: pd.DataFrame) -> Mask:
        """Which rows of a whole table the model learnt from, shape (rows,).

        Raises:
            TidegateError: a column by which rows are known is gone.
        """
        import numpy as np

        found: Mask = np.isin(_keys(frame, self.columns, groups=self.groups), self.keys)
        return found

    def write(self, folder: Path) -> None:
        """Write learnt.npz: 8 bytes for each row, the same bytes for the same rows."""
        import numpy as np

        columns = np.array(self.columns, dtype=np.str_)
        np.savez(folder / LEARNT_FILE, version=VERSION, columns=columns, keys=self.keys, groups=self.groups)

    @classmethod
    def parse(cls, content: bytes) -> Learnt:
        """Read what `write` wrote.

        Raises:
            TidegateError: it is damaged, or its keys were made in another way than today's.
        """
        import numpy as np

        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as parts:
                version = int(parts["version"])
                found = cls(tuple(map(str, parts["columns"])), parts["keys"], bool(parts["groups"]))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise TidegateError(f"{LEARNT_FILE} is damaged") from error
        if version != VERSION or found.keys.dtype != np.uint64:
            raise TidegateError(f"{LEARNT_FILE} is of another version of tidegate")
        return found


def learnt(frame: pd.DataFrame, features: pd.DataFrame, train: npt.NDArray[np.int64], split: Split) -> Learnt:
    """What a model learns from that is trained on the rows at the positions `train` of `frame`.

    Rows are known by what a model sees of them, and by their time, which may be kept from it; not by row numbers and
    the like (data.drop), which another export gives anew.
    """
    import numpy as np

    groups, named = split.by == "group", [] if split.column is None else [split.column]
    columns = tuple(named if groups else sorted({*named, *map(str, features.columns)}))
    return Learnt(columns, np.unique(_keys(frame, columns, groups=groups)[train]), groups)


def _keys(frame: pd.DataFrame, columns: tuple[str, ...], *, groups: bool) -> Keys:
    if lost := [name for name in columns if name not in frame.columns]:
        raise TidegateError(f"rows are known by the column {lost[0]!r}, among others, and it is gone")
    return value_keys(frame[columns[0]]) if groups else row_keys(frame, columns)
