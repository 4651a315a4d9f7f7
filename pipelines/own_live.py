"""The user's own metrics on live answers, called in a process of their own: they may hang or crash, the stack must not.

Of a rollout: `module:function(frame)` gives a number for each user; the frame is that of `rollouts/late.py`. More is
worse, unless the function carries `higher_is_better = True`. A rollout calls them as they were when it began
(own_code.py).

Of the monitor: `module:function(y_true, prediction, frame)` gives one number for a sample, as the gate's own metrics
do. Higher is better, unless the function carries `higher_is_better = False`.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.core.errors import TidegateError
from tidegate.monitors.own_quality import Sample, Sampled
from tidegate.pipelines.own_code import Code, Kept

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tidegate.core.metrics import Direction
    from tidegate.core.project import Project

_SECONDS: Final = 30.0
_CALL, _ANSWER, _CODE = "call.pickle", "answer.pickle", "code"


class Answer(NamedTuple):
    """What a function said: one value for each row, and whether more is better."""

    told: list[float]
    higher_is_better: bool


class _Told(NamedTuple):
    """What the process of a call leaves behind: an answer or the words of an error, and what it had imported."""

    found: Answer | Sampled | tuple[str, str]
    code: Code | None


class OwnFunctions:
    """Calls the functions of one project.

    Args:
        project: whose code it is.
        seconds: how long a call may take.
        kept: the code of a rollout; None: as it is in the project now.

    Attributes:
        code: what was called so far, as it was then; None before the first answer.
    """

    def __init__(self, project: Project, seconds: float = _SECONDS, kept: Kept | Code | None = None) -> None:
        self._project, self._seconds, self._kept = project, seconds, kept
        self.code: Code | None = None

    def __call__(self, metric: str, frame: pd.DataFrame) -> NDArray[Any]:
        """The values; as `ask`."""
        import numpy as np

        found: NDArray[np.float64] = np.asarray(self.ask(metric, frame).told, dtype=np.float64)
        return found

    def ask(self, metric: str, frame: pd.DataFrame) -> Answer:
        """What a rollout's metric says of each user.

        Raises:
            TidegateError: it raised, took too long, or its process died.
        """
        told = self._call(metric, frame, len(frame))
        assert isinstance(told, Answer)  # noqa: S101 - a frame was asked about
        return told

    def measure(self, metric: str, sample: Sample) -> Sampled:
        """What the monitor's metric says of a sample, and of it without each group; raises as `ask`."""
        told = self._call(metric, sample, len(sample.truth))
        assert isinstance(told, Sampled)  # noqa: S101 - a sample was asked about
        return told

    def _call(self, metric: str, about: pd.DataFrame | Sample, rows: int) -> Answer | Sampled:
        with tempfile.TemporaryDirectory(prefix="tidegate-metric-") as made:
            folder = Path(made)
            root, parts = self._place(folder / _CODE)
            (folder / _CALL).write_bytes(pickle.dumps((root, parts, metric, about)))
            command = [sys.executable, "-m", "tidegate.pipelines.own_live", str(folder)]
            try:
                done = subprocess.run(
                    command,
                    check=False,
                    cwd=root,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=self._seconds,
                )
            except subprocess.TimeoutExpired as error:
                raise TidegateError(
                    f"{metric} did not answer within {self._seconds:g} s for {rows} rows.",
                    "It gets whole columns, and should work on them as such.",
                ) from error
            answer = folder / _ANSWER
            if not answer.exists():
                said = done.stderr.decode(errors="replace").strip().splitlines()
                raise TidegateError(
                    f"The process of {metric} died ({done.returncode}): {said[-1] if said else 'it said nothing'}.",
                    "`python -c 'import MODULE'` in the project's folder may show why.",
                )
            told: _Told = pickle.loads(answer.read_bytes())  # noqa: S301 - our own process wrote it into our own folder
        if not isinstance(told.found, Answer | Sampled):
            raise TidegateError(*told.found)
        if told.code is not None:
            self.code = told.code if self.code is None else self.code | told.code
        return told.found

    def alone(self) -> OwnFunctions:
        """The functions that were called so far, by their own modules alone."""
        return OwnFunctions(self._project, self._seconds, self.code)

    def _place(self, folder: Path) -> tuple[Path, list[str]]:
        """Where the code lies, and what of it is importable as `train.code` is: the parents of these paths."""
        if self._kept is None:
            return self._project.root, list(self._project.config.train.code)
        code = self._kept.load() if isinstance(self._kept, Kept) else self._kept
        folder.mkdir()
        code.write(folder)
        return folder, [f"{root}/_" if root else "_" for root in code.roots]


def main(folder: Path) -> None:
    """Answer the call that lies in `folder`."""
    from tidegate.core.user_errors import failed
    from tidegate.pipelines import user_code
    from tidegate.pipelines.own_code import imported

    root, code, metric, about = pickle.loads((folder / _CALL).read_bytes())  # noqa: S301 - written by `ask`
    told: _Told
    try:
        with user_code.importable(root, code):
            function = user_code.load_function(root, metric, "the metric")
            try:
                found = _sampled(function, about) if isinstance(about, Sample) else _answer(function, about)
            except Exception as error:
                raise failed(error, root, f"calling {metric}") from error
            told = _Told(found, imported(root))
    except TidegateError as error:
        told = _Told((error.message, error.hint), None)
    part = folder / f"{_ANSWER}.part"
    part.write_bytes(pickle.dumps(told))
    part.rename(folder / _ANSWER)


def _answer(function: Callable[..., Any], frame: pd.DataFrame) -> Answer:
    return Answer([float(one) for one in function(frame)], bool(getattr(function, "higher_is_better", False)))


def _sampled(function: Callable[..., Any], sample: Sample) -> Sampled:
    def of(rows: Any) -> float:
        frame = sample.frame[rows].reset_index(drop=True)
        return float(function(sample.truth[rows], sample.prediction[rows], frame))

    groups = range(int(sample.place.max()) + 1)
    better: Direction = "higher" if getattr(function, "higher_is_better", True) else "lower"
    return Sampled(of(sample.place >= 0), tuple(of(sample.place != one) for one in groups), better)


if __name__ == "__main__":
    # Under its importable name, by which the answer's type is found again.
    from tidegate.pipelines.own_live import main as answer

    answer(Path(sys.argv[1]))
