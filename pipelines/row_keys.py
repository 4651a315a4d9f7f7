"""A number for each row that depends on what the row says, not on where it stands: the same on every machine.

A split that goes by it keeps a row on its side when others are added, removed or reordered. Hashing is our own, in a
few lines, because a library that changed its hash would silently move every holdout.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from tidegate.pipelines.cells import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Keys = npt.NDArray[np.uint64]

VERSION: Final = 1
"""Of how keys are made: those kept with a model (learnt.py) are compared with keys of the same version only."""

TOGETHER: Final = 10
"""Copies of one row that share a key. Accidental copies are few and must not be learnt from and held out at once; in
a table of few different rows there are thousands, and they must be divided."""

_ROUNDED: Final = 10  # of the 52 bits of a number's fraction


def row_keys(frame: pd.DataFrame, columns: Sequence[str]) -> Keys:
    """One uint64 for each row of `frame`, shape (rows,), evenly spread, from its values in `columns`.

    The order of the columns, the order of the rows and the kind that a column is read as make no difference: whole
    numbers may be floats, and one cell that is no number, boolean or time may make text of all of them. The k-th copy
    of a row has the key of the copies around it, `TOGETHER` of them.
    """
    import numpy as np
    import pandas as pd

    content = np.zeros(len(frame), dtype=np.uint64)
    for name in sorted(columns):
        content = _mix(content ^ _mix(_values(frame[name]) + np.uint64(_text(f"column {name}"))))
    copy = pd.Series(content).groupby(content).cumcount().to_numpy().astype(np.uint64)
    return _mix(content + copy // np.uint64(TOGETHER))


def value_keys(values: pd.Series[Any]) -> Keys:
    """One uint64 for each value, the same for equal values; shape (rows,)."""
    return _mix(_values(values))


def _values(values: pd.Series[Any]) -> Keys:
    """The bits of a number or time as float64, a digest of other text; one key stands for every missing value."""
    import numpy as np
    import pandas as pd

    missing = values.isna().to_numpy(dtype=bool)
    if values.dtype.kind in "biuf":
        numbers = values.astype("Float64").to_numpy(dtype=np.float64, na_value=0.0)
    elif values.dtype.kind == "M":
        numbers = values.to_numpy().astype("datetime64[ms]").astype(np.int64).astype(np.float64)
    else:
        codes, names = pd.factorize(values.astype(object))
        texts = [str(name) for name in names] or [""]
        spelt = np.array([number(text) for text in texts], dtype=np.float64)
        digests = np.array([_text(text) for text in texts], dtype=np.uint64)
        # As if the column were numbers, booleans or times where its text can be read as one.
        keys = np.where(np.isnan(spelt), digests, _bits(spelt))
        return np.where(missing, np.uint64(_text("missing")), keys[codes])
    return np.where(missing, np.uint64(_text("missing")), _bits(numbers))


def _bits(numbers: npt.NDArray[Any]) -> Keys:
    """The bits of numbers, rounded to 12 digits: programs that read and write a table change the last ones."""
    import numpy as np

    # -0.0 and 0.0 are one value with two bit patterns; adding 0.0 leaves one.
    bits = (numbers + 0.0).view(np.uint64)
    return (bits + np.uint64(1 << (_ROUNDED - 1))) >> np.uint64(_ROUNDED) << np.uint64(_ROUNDED)


def _text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(keys: Keys) -> Keys:
    """Spread nearby numbers evenly over 64 bits: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    import numpy as np

    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
