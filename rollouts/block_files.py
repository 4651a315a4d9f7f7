"""The blocks of a rollout in the store: what the judge was given, for the report and for a replay.

Writing and reading stand side by side. A file holds the blocks that were closed together, and is named after the first.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.store import Store
from tidegate.rollouts.block_lines import from_lines, to_lines
from tidegate.rollouts.blocks import Block


def write_blocks(
    store: Store,
    rollout: str,
    blocks: Sequence[Block],
    bunching: Mapping[str, float] | None = None,
    higher: Collection[str] = (),
) -> None:
    """Keep blocks that follow each other, with the design effect and direction of metrics; none leaves nothing."""
    if blocks:
        lines = [json.dumps(line) for block in blocks for line in to_lines(rollout, block, bunching, higher)]
        store.write(f"{_folder(rollout)}/{blocks[0].index:08d}.jsonl", ("\n".join(lines) + "\n").encode())


def forget_from(store: Store, rollout: str, index: int) -> None:
    """Remove what was kept of blocks from `index` on: a kill came before the checkpoint that counts them."""
    for path in store.list(_folder(rollout)):
        if int(path.rsplit("/", 1)[1].removesuffix(".jsonl")) >= index:
            store.delete(path)


def read_blocks(store: Store, rollout: str) -> list[Block]:
    """Every block so far, in the order of the judge; none is no error.

    Raises:
        TidegateError: a file is damaged; nothing is guessed in its place.
    """
    blocks: list[Block] = []
    for path in store.list(_folder(rollout)):
        try:
            lines = [json.loads(line) for line in store.read(path).splitlines()]
            blocks += from_lines(lines).get(rollout, [])
        except (ValueError, TypeError, AttributeError, UsageError) as error:
            raise damaged(store, rollout, f"{path} cannot be read") from error
    return blocks


def damaged(store: Store, rollout: str, what: str) -> TidegateError:
    """The error for blocks that cannot be what was written."""
    return TidegateError(
        f"The recorded blocks of rollout {rollout} are damaged: {what}.",
        f"Nothing was changed. Restore {_folder(rollout)} of the store {store.url} from a backup; "
        f"`tidegate rollout status {rollout}` does without them.",
    )


def _folder(rollout: str) -> str:
    return f"rollouts/{rollout}/blocks"
