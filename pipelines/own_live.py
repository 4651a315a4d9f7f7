"""The user's own live metrics, `module:function(frame)`.

They are called in a process of their own, because they may hang or crash, and the stack must not. The frame is that of
`rollouts/late.py`. More is worse, unless the function carries `higher_is_better = True`.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.core.errors import TidegateError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tidegate.core.project import Project

_SECONDS: Final = 30.0
_CALL, _ANSWER = "call.pickle", "answer.pickle"


class Answer(NamedTuple):
    """What a function said: one value for each row, and whether more is better."""

    told: list[float]
    higher_is_better: bool


class OwnFunctions:
    """Calls the functions of one project.

    Args:
        project: whose code it is.
        seconds: how long a call may take.
    """

    def __init__(self, project: Project, seconds: float = _SECONDS) -> None:
        self._root, self._code, self._seconds = project.root, list(project.config.train.code), seconds

    def __call__(self, metric: str, frame: pd.DataFrame) -> NDArray[Any]:
        """The values; as `ask`."""
        import numpy as np

        found: NDArray[np.float64] = np.asarray(self.ask(metric, frame).told, dtype=np.float64)
        return found

    def ask(self, metric: str, frame: pd.DataFrame) -> Answer:
        """Call it.

        Raises:
            TidegateError: it raised, took too long, or its process died.
        """
        with tempfile.TemporaryDirectory(prefix="tidegate-metric-") as made:
            folder = Path(made)
            (folder / _CALL).write_bytes(pickle.dumps((self._root, self._code, metric, frame)))
            command = [sys.executable, "-m", "tidegate.pipelines.own_live", str(folder)]
            try:
                done = subprocess.run(
                    command,
                    check=False,
                    cwd=self._root,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=self._seconds,
                )
            except subprocess.TimeoutExpired as error:
                raise TidegateError(
                    f"{metric} did not answer within {self._seconds:g} s for {len(frame)} users.",
                    "It gets a frame with a row for each user; work on whole columns.",
                ) from error
            answer = folder / _ANSWER
            if not answer.exists():
                said = done.stderr.decode(errors="replace").strip().splitlines()
                raise TidegateError(
                    f"The process of {metric} died ({done.returncode}): {said[-1] if said else 'it said nothing'}.",
                    "`python -c 'import MODULE'` in the project's folder may show why.",
                )
            found = pickle.loads(answer.read_bytes())  # noqa: S301 - our own process wrote it into our own folder
        if isinstance(found, Answer):
            return found
        raise TidegateError(*found)


def main(folder: Path) -> None:
    """Answer the call that lies in `folder`."""
    from tidegate.core.user_errors import failed
    from tidegate.pipelines import user_code

    root, code, metric, frame = pickle.loads((folder / _CALL).read_bytes())  # noqa: S301 - written by `ask`
    found: Answer | tuple[str, str]
    try:
        with user_code.importable(root, code):
            function = user_code.load_function(root, metric, "the metric")
            try:
                found = Answer(
                    [float(one) for one in function(frame)], bool(getattr(function, "higher_is_better", False))
                )
            except Exception as error:
                raise failed(error, root, f"calling {metric}") from error
    except TidegateError as error:
        found = (error.message, error.hint)
    part = folder / f"{_ANSWER}.part"
    part.write_bytes(pickle.dumps(found))
    part.rename(folder / _ANSWER)


if __name__ == "__main__":
    # Under its importable name, by which the answer's type is found again.
    from tidegate.pipelines.own_live import main as answer

    answer(Path(sys.argv[1]))
