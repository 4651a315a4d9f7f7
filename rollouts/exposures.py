"""The first exposures of a rollout in the store: whom labels and outcomes are counted for when they are old enough.

Writing and reading stand side by side. A file holds the users of one block, by their keyed hashes, never by name.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from tidegate.core.store import Store
from tidegate.rollouts.blocks import Exposed
from tidegate.rollouts.late_reading import Exposure

_FIELDS: Final = ("index", "weight", "arm", "unit", "prediction", "at", "until")


def write_exposures(store: Store, rollout: str, users: Sequence[Exposure]) -> list[int]:
    """Keep the users of blocks that were closed; the blocks that have any, in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    blocks: dict[int, list[Exposure]] = {}
    for one in users:
        blocks.setdefault(one.user.index, []).append(one)
    for index, rows in blocks.items():
        columns = {name: [getattr(one.user, name) for one in rows] for name in _FIELDS[:-1]}
        buffer = io.BytesIO()
        pq.write_table(pa.table({**columns, "until": [one.until for one in rows]}), buffer, compression="zstd")
        store.write(_path(rollout, index), buffer.getvalue())
    return sorted(blocks)


def read_exposures(store: Store, rollout: str, index: int) -> list[Exposure]:
    """The users of one block."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(store.read(_path(rollout, index))))
    columns = (table[name].to_pylist() for name in _FIELDS)
    return [Exposure(Exposed(*row[:-1]), row[-1]) for row in zip(*columns, strict=True)]


def erase_exposures(store: Store, rollout: str, unit: int) -> int:
    """Take a user out of what is kept, by the keyed hash; returns how many rows there were.

    A block's file stays where nobody is left in it: whoever follows the rollout knows the blocks by their files.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    gone = 0
    for path in store.list(_folder(rollout)):
        table = pq.read_table(io.BytesIO(store.read(path)))
        left = table.filter(pc.not_equal(table.column("unit"), unit))
        if left.num_rows < table.num_rows:
            buffer = io.BytesIO()
            pq.write_table(left, buffer, compression="zstd")
            store.write(path, buffer.getvalue())
            gone += table.num_rows - left.num_rows
    return gone


def exposed_blocks(store: Store, rollout: str) -> list[int]:
    """The blocks of which users are kept, in order."""
    return sorted(int(path.rsplit("/", 1)[1].removesuffix(".parquet")) for path in store.list(_folder(rollout)))


def forget_exposures(store: Store, rollout: str, index: int) -> None:
    """Remove what was kept of blocks from `index` on: a kill came before the checkpoint that counts them."""
    for block in exposed_blocks(store, rollout):
        if block >= index:
            store.delete(_path(rollout, block))


def _path(rollout: str, index: int) -> str:
    return f"{_folder(rollout)}/{index:08d}.parquet"


def _folder(rollout: str) -> str:
    return f"rollouts/{rollout}/exposures"
