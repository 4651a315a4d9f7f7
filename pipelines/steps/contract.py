"""The data contract: what the data promises, checked by Great Expectations before anything is trained.

Great Expectations fails open: an unknown expectation is logged and dropped, an empty suite and an empty table pass, a
missing column is a traceback inside a result. So the contract is read by us, each entry is built and counted by us,
and the gate is ours: an `error` that does not hold fails the contract, a `warning` is only reported.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tidegate.core.errors import ConfigError, ContractFailed, Permanent, TidegateError
from tidegate.core.yaml_lines import Entry, NotReadable, Problem, read
from tidegate.pipelines.dataset import did_you_mean, kinds, read_frame
from tidegate.pipelines.dvc_repo import verify_data
from tidegate.pipelines.steps.contract_cells import misfits
from tidegate.pipelines.steps.contract_text import sentence

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.progress import Progress
    from tidegate.core.project import Project

Severity = Literal["error", "warning"]

OWN_KEYS: Final = ("type", "severity", "why")
# Fields of every expectation that are bookkeeping, not part of the promise.
_INTERNAL: Final = {
    "batch_id", "catch_exceptions", "description", "id", "meta", "notes", "rendered_content", "result_format",
    "severity", "windows",
}  # fmt: skip
_COLUMN_KEYS: Final = ("column", "column_A", "column_B", "column_list", "column_set")
SHOWN_VALUES: Final = 20  # offending values and rows kept for each result: enough to find the cause, small as JSON


@dataclass(frozen=True, slots=True)
class Check:
    """One promise as written: the expectation's type, its arguments, and where it stands."""

    type: str
    kwargs: Mapping[str, Any]
    severity: Severity
    why: str
    line: int


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether one promise holds, and a sentence for people."""

    type: str
    column: str | None
    severity: Severity
    passed: bool
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class ContractResult:
    """The whole contract: passed unless an `error` does not hold; `rows` and `columns` were looked at."""

    passed: bool
    results: tuple[CheckResult, ...]
    rows: int
    columns: int

    @property
    def failed(self) -> tuple[str, ...]:
        """A sentence for each thing that breaks promises of severity error (a lost column breaks several)."""
        return self._broken("error")

    @property
    def warned(self) -> tuple[str, ...]:
        """The same for severity warning."""
        return self._broken("warning")

    def _broken(self, severity: Severity) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.text for one in self.results if not one.passed and one.severity == severity))

    def document(self) -> dict[str, Any]:
        """JSON of the result."""
        return {
            "passed": self.passed,
            "rows": self.rows,
            "columns": self.columns,
            "failed": list(self.failed),
            "warned": list(self.warned),
            "results": [
                {
                    "type": one.type,
                    "column": one.column,
                    "severity": one.severity,
                    "passed": one.passed,
                    "text": one.text,
                    "line": one.line,
                }
                for one in self.results
            ],
        }

    def require(self) -> None:
        """Raise ContractFailed, naming what is broken, unless it passed."""
        if self.passed:
            return
        shown = "\n".join(f"  - {text}" for text in self.failed[:10])
        more = f"\n  and {len(self.failed) - 10} more" if len(self.failed) > 10 else ""  # noqa: PLR2004 - a screenful
        broken = sum(not one.passed and one.severity == "error" for one in self.results)
        raise ContractFailed(
            f"The data breaks its contract ({broken:,} of {len(self.results):,} promises):\n{shown}{more}",
            "Repair the data, or change the contract if the world has changed; `tidegate data check` checks again.",
        )


def check_contract(frame: pd.DataFrame, contract_path: Path) -> ContractResult:
    """Check canonical columns (dataset.read_frame) against a contract file.

    Raises:
        ConfigError: the contract is missing, empty, or has a mistake; every mistake is named with its line.
        TidegateError: there are no rows to check.
        Permanent: Great Expectations did not answer for every entry.
    """
    checks = read_contract(contract_path)
    if frame.empty:
        raise TidegateError("There are no rows to check against the contract", "Is the export complete?")
    built = _build(checks, contract_path, kinds(frame))
    answered = dict(_missing_columns(checks, list(frame.columns))) | dict(_misfits(checks, frame))
    asked = {index: one for index, one in enumerate(built) if index not in answered}
    answered |= _validate(frame, checks, asked)
    if len(answered) != len(checks):
        raise Permanent(
            f"Great Expectations answered {len(answered)} of {len(checks)} expectations",
            "No answer is not a pass. Please report this with your contract file.",
        )
    results = tuple(answered[index] for index in range(len(checks)))
    passed = all(one.passed for one in results if one.severity == "error")
    return ContractResult(passed, results, rows=len(frame), columns=len(frame.columns))


def run(project: Project, progress: Progress) -> ContractResult:
    """The contract step: verified data against the contract, `out/contract.json` if it passed.

    Raises:
        ContractFailed: it did not; DVC then has no output, so the next run checks again.
        Permanent: the data is not what DVC recorded.
    """
    verify_data(project)
    with progress.task("check the contract"):
        frame = read_frame(project.path(project.config.data.path))
        result = check_contract(frame, project.path(project.config.contract))
    for text in result.warned:
        progress.note(f"contract warning: {text}")
    result.require()
    project.out_dir.mkdir(exist_ok=True)
    part = project.out_dir / ".contract.json.part"
    part.write_text(json.dumps(result.document(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(project.out_dir / "contract.json")
    return result


# --- reading -------------------------------------------------------------------------------------------------------


def read_contract(path: Path) -> list[Check]:
    """The promises of a contract file.

    Raises:
        ConfigError: as `check_contract`; expectation types and arguments are checked there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no contract {path.name}", "`tidegate data draft` writes one from the data."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text", "Save it as UTF-8.") from error
    try:
        root, problems = read(text)
    except NotReadable as error:
        raise _mistakes(path, error.problems) from error
    entries = root.child("expectations")
    if isinstance(root.value, dict):
        problems += [
            Problem(one.line, (key,), "unknown key; a contract has one key, expectations")
            for key, one in root.value.items()
            if key != "expectations"
        ]
    if entries is None or not isinstance(entries.value, list) or not entries.value:
        problems.append(Problem(root.line, (), "expectations: should be a list with at least one entry"))
        raise _mistakes(path, problems)
    checks = [check for entry in entries.value if (check := _check(entry, problems)) is not None]
    if problems:
        raise _mistakes(path, problems)
    return checks


def _check(entry: Entry, problems: list[Problem]) -> Check | None:
    plain = entry.plain()
    if not isinstance(plain, dict) or not isinstance(plain.get("type"), str):
        problems.append(Problem(entry.line, entry.path, "should be a mapping with a `type: expect_...`"))
        return None
    severity = plain.get("severity", "error")
    if severity not in ("error", "warning"):
        problems.append(Problem(entry.line, (*entry.path, "severity"), f"{severity!r} should be error or warning"))
        return None
    kwargs = {key: value for key, value in plain.items() if key not in OWN_KEYS}
    return Check(plain["type"], kwargs, severity, str(plain.get("why") or ""), entry.line)


def _mistakes(path: Path, problems: list[Problem]) -> ConfigError:
    lines = tuple(
        dict.fromkeys(problem.show(path.name) for problem in sorted(problems, key=lambda problem: problem.line))
    )
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return ConfigError(
        f"{path.name} has {count}.", "`tidegate data draft` prints a contract that fits the data.", lines
    )


# --- Great Expectations --------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[Any]:
    """The library, without its usage reports, progress bars, log lines and warnings about itself."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations

        yield great_expectations


def _build(checks: list[Check], path: Path, columns: Mapping[str, str]) -> list[Any]:
    """An expectation object for each check; every unknown type and wrong argument is collected first."""
    problems: list[Problem] = []
    built = []
    with _quiet():
        from great_expectations.expectations import registry

        known = sorted(name for name in registry.list_registered_expectation_implementations() if name[0] == "e")
        for index, check in enumerate(checks):
            where = ("expectations", index)
            if check.type not in known:
                problems.append(Problem(check.line, (*where, "type"), _unknown(check.type, known)))
                continue
            made = _construct(registry.get_expectation_impl(check.type), check, index, columns)
            if isinstance(made, list):
                problems += [Problem(check.line, where, text) for text in made]
            else:
                built.append(made)
    if problems:
        raise _mistakes(path, problems)
    return built


def _unknown(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"unknown expectation {name!r}" + (f", did you mean {close[0]!r}?" if close else "")


def _construct(kind: Any, check: Check, index: int, columns: Mapping[str, str]) -> Any:
    """The expectation object, or a list of what is wrong with its arguments."""
    fields = sorted(set(kind.__fields__) - _INTERNAL)
    strange = [key for key in check.kwargs if key not in fields]
    if strange:
        takes = f"{check.type} takes {', '.join(fields)}"
        return [f"unknown argument {key!r}; {takes}" for key in strange]
    kwargs = dict(check.kwargs)
    if columns.get(str(kwargs.get("column"))) == "datetime":
        kwargs |= {key: _moment(kwargs[key]) for key in ("min_value", "max_value") if key in kwargs}
    level = "critical" if check.severity == "error" else "warning"
    try:
        return kind(**kwargs, severity=level, meta={"index": index}, result_format=_FORMAT)
    except ValueError as error:  # pydantic's ValidationError is one
        details = error.errors() if hasattr(error, "errors") else [{"loc": (), "msg": str(error)}]
        # A union of types complains once for each of them; the first is about the one that was meant.
        first = {one["loc"]: one["msg"] for one in reversed(details)}
        return [f"{'.'.join(map(str, where))}: {what}".removeprefix("__root__: ") for where, what in first.items()]


_FORMAT: Final = {"result_format": "COMPLETE", "partial_unexpected_count": SHOWN_VALUES}


def _moment(value: object) -> object:
    """A bound of a time column: YAML keeps dates as text."""
    import datetime as dt

    try:
        return dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _missing_columns(checks: list[Check], columns: list[str]) -> Iterator[tuple[int, CheckResult]]:
    """Checks of columns that are not there, answered here: the library would answer with a traceback."""
    for index, check in enumerate(checks):
        wanted: list[str] = []
        for key in _COLUMN_KEYS:
            value = check.kwargs.get(key)
            wanted += value if isinstance(value, list) else [value] if isinstance(value, str) else []
        lost = [name for name in wanted if name not in columns]
        if lost:
            more = f" ({len(lost)} such columns: {', '.join(lost[:5])})" if len(lost) > 1 else ""
            text = f"{lost[0]}: the data has no such column{more}. {did_you_mean(lost[0], columns)}"
            yield index, CheckResult(check.type, lost[0], check.severity, passed=False, text=text, line=check.line)


def _misfits(checks: list[Check], frame: pd.DataFrame) -> Iterator[tuple[int, CheckResult]]:
    """Checks of columns that some cells made text of, answered here: the library would blame every row, or none."""
    texts = {name for name, kind in kinds(frame).items() if kind == "string"}
    for index, check in enumerate(checks):
        name = check.kwargs.get("column")
        if isinstance(name, str) and name in texts and (found := misfits(frame[name], check.type, check.kwargs)):
            text = f"{name}: {found}"
            yield index, CheckResult(check.type, name, check.severity, passed=False, text=text, line=check.line)


def _validate(frame: pd.DataFrame, checks: list[Check], asked: Mapping[int, Any]) -> dict[int, CheckResult]:
    """Run the library once over all expectations; answers are matched by our own number, not by their order."""
    if not asked:
        return {}
    with _quiet() as gx:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        source = context.data_sources.add_pandas("data").add_dataframe_asset("data")
        batch = source.add_batch_definition_whole_dataframe("data").get_batch({"dataframe": frame})
        suite = gx.ExpectationSuite(name="contract", expectations=list(asked.values()))
        report = batch.validate(suite, result_format=_FORMAT)
    answers: dict[int, CheckResult] = {}
    for one in report.results:
        index = int(one.expectation_config.meta["index"])
        check = checks[index]
        text = sentence(
            check.type, check.kwargs, one.result or {}, _raised(one.exception_info), passed=bool(one.success)
        )
        column = check.kwargs.get("column")
        answers[index] = CheckResult(
            check.type,
            column if isinstance(column, str) else None,
            check.severity,
            passed=bool(one.success),
            text=f"{text} ({check.why})" if check.why and not one.success else text,
            line=check.line,
        )
    return answers


def _raised(info: Any) -> str:
    """The message of an exception inside a result, if there was one."""
    for one in [info, *(info.values() if isinstance(info, Mapping) else [])]:
        if isinstance(one, Mapping) and one.get("raised_exception"):
            return str(one.get("exception_message") or "could not be computed")
    return ""
