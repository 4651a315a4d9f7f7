"""The truth of made-up traffic: rows of the holdout are sent, so what they should be answered is known.

Labels go to the store every second, from a thread of their own: the load must not wait for a disk.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tidegate.serving.gateway.state import PREDICTION_HEADER
from tidegate.serving.labels import stored
from tidegate.serving.labels.rows import numbered

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment
    from tidegate.serving.http_client import Answer

_EVERY: Final = 1.0
_FEW: Final = 2
_OK: Final = 200


class TrueLabels:
    """Keeps the target of each row that was answered with a prediction; everything is kept when it is left.

    Args:
        environment: whose store.
        truths: the target of each row, in the order of the bodies that are sent.
    """

    def __init__(self, environment: Environment, truths: Sequence[Any]) -> None:
        self._environment, self._truths = environment, truths
        self._waiting: deque[dict[str, Any]] = deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)
        self._failed: Exception | None = None
        self.kept = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self._failed is not None and error is None:
            raise self._failed

    def heard(self, place: int, answer: Answer) -> None:
        """An answer to the body at `place`."""
        name = answer.header(PREDICTION_HEADER.encode())
        if answer.status == _OK and name:
            self._waiting.append({"prediction_id": name, "label": self._truths[place]})

    def _run(self) -> None:
        try:
            while not self._over.wait(_EVERY):
                self._keep()
            self._keep()
            self._tidy()
        except Exception as error:  # noqa: BLE001 - whoever waits for this thread raises it
            self._failed = error

    def _keep(self) -> None:
        rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
        store, now = self._environment.store, datetime.now(UTC)
        table, _ = stored.table_of(store, "labels", numbered(rows), now)
        if table.num_rows:
            stored.append(store, self._environment.stream, "labels", [table], now)
            self.kept += table.num_rows

    def _tidy(self) -> None:
        stored.compact(self._environment.store, "labels", self._environment.stream, datetime.now(UTC), few=_FEW)
