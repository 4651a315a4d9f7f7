"""Every error a user can meet, and every exit code, in one file.

A message says what happened, a hint says the likely reason and what to type next.
`Temporary` may be tried again as it is; `Permanent` must not be.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; scripts and CI rely on these numbers."""

    OK = 0
    ERROR = 1  # what the message says
    USAGE = 2  # the command line or tidegate.yaml
    REFUSED = 3  # by the contract or the gate
    DRIFT = 4  # found by `monitor run`
    INCONCLUSIVE = 5  # not decided, or nobody to judge by
    ROLLED_BACK = 6  # by the judge or by a person
    DO_NOT_RETRY = 78  # of `step` in a pod: the same inputs fail again
    INTERRUPTED = 130  # Ctrl-C


class TidegateError(Exception):
    """Something the reader of the terminal can act on.

    Args:
        message: what happened, one sentence.
        hint: the likely reason and what to type next.
        exit_code: overrides the class's own code.
    """

    exit_code: ExitCode = ExitCode.ERROR

    def __init__(self, message: str, hint: str = "", exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(TidegateError):
    """The command line asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """tidegate.yaml or the contract is wrong; `problems` holds one line for each mistake."""

    def __init__(self, message: str, hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.problems = problems


class ContractFailed(TidegateError):
    """The data breaks its contract."""

    exit_code = ExitCode.REFUSED


class Conflict(TidegateError):
    """Somebody else decided first; the message says who and what."""


class Inconclusive(TidegateError):
    """There is not enough evidence for either answer."""

    exit_code = ExitCode.INCONCLUSIVE


class Interrupted(TidegateError):
    """A person pressed Ctrl-C; the message says what goes on all the same, or what was kept."""

    exit_code = ExitCode.INTERRUPTED


class Permanent(TidegateError):
    """Trying again cannot help; `tidegate step` ends with 78 for it, so that a pod is not tried again."""


class Temporary(TidegateError):
    """Trying again may help."""
