"""`tidegate rollout`: plan, start, follow and end A/B rollouts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.interrupted import explained, watching
from tidegate.cli.terminal import Terminal, duration, terminal
from tidegate.core.errors import ExitCode, Interrupted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tidegate.core.artifacts import Release
    from tidegate.pipelines.environment import Environment
    from tidegate.rollouts.plan import GuardrailPlan, RolloutPlan
    from tidegate.rollouts.replay import Replayed

app = typer.Typer(help="Plan, start, follow and end A/B rollouts.", no_args_is_help=True)
Reason = Annotated[str, typer.Option(help="Why; it is kept in the ledger.")]
Which = Annotated[
    str | None, typer.Argument(help="A rollout's id or a beginning of it; default: the newest.", metavar="ROLLOUT")
]
_POLL_SECONDS = 0.5
# Streams that fit on a screen.
_SHOWN = 20
# Characters of a reason in a table on a terminal.
_READABLE = 100
# More than any row has.
_ONE_LINE = 10_000
_START_LATER = "`tidegate rollout start` measures again and starts it."
_NO_COPIES = "nothing was compared."


@app.command()
def plan(
    units_per_minute: Annotated[
        float | None, typer.Option(help="New users a minute, instead of those measured now.", min=0)
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Print the `rollout` section with auto values filled in.")
    ] = False,
) -> None:
    """Forecast how long a rollout would take at the traffic of now, before it starts."""
    from tidegate.pipelines import flows

    t = terminal()
    made = flows.forecast_rollout(_environment(), t.progress, units_per_minute)
    forecast = {"forecast_seconds": made.forecast_seconds, "exposed_units": made.exposed_units}
    document = {"kind": "plan", **made.to_dict(), **forecast}
    t.show(document, lambda console: _print_suggestion(console, made) if suggest else _print_plan(console, made))


@app.command()
def start(
    release: Annotated[
        str | None,
        typer.Argument(
            help="The release to try (its id or a beginning of it); default: the newest challenger.", metavar="RELEASE"
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="End a running rollout first.")] = False,
    git: Annotated[
        Path | None,
        typer.Option(
            "--git",
            help="Commit its objects into this rendered folder, on a branch tidegate/ROLLOUT; nothing is applied.",
            metavar="DIR",
        ),
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="With --git: push that branch to origin.")] = False,
) -> None:
    """Start a rollout of a registered release and return; the running stack, or the cluster, moves it on."""
    from tidegate.core.errors import Conflict, UsageError
    from tidegate.pipelines import flows
    from tidegate.registry import releases

    t = terminal()
    environment = _environment()
    if environment.on_cluster:
        environment.kube_driver.settle()
    state = environment.state()
    chosen = releases.resolve(environment.store, release) if release else state.challenger
    if chosen is None:
        raise Conflict(
            "There is no challenger to try.", "`tidegate ship` makes one; `tidegate release list` shows all."
        )
    found = releases.load(environment.store, chosen)
    if environment.on_cluster:
        _require_bringable(environment, found, git)
    elif git is not None or push:
        raise UsageError("--git and --push are of a Kubernetes environment.", "Add `--env NAME`.")
    if not replace:
        flows.require_startable(state, found.id, by_hand=True)
    with explained(lambda _: Interrupted("Interrupted while measuring; no rollout was started.", _START_LATER)):
        made = flows.plan_to_start(environment, t.progress)
    if git is not None:
        _start_in_git(environment, found, made, git, replace=replace, push=push)
        return
    rollout = environment.driver.start(found.id, made, by_hand=True, replace=replace)
    document = environment.driver.status(rollout.id)
    begins = "with copied traffic only" if rollout.shadowing else f"at {rollout.weight} %"
    text = f"Rollout {rollout.id} of version {found.version} begins {begins}: `tidegate rollout watch`."
    t.show(document, lambda console: console.print(text))


def _require_bringable(environment: Environment, release: Release, folder: Path | None) -> None:
    """Refuse, before anything is measured, what a cluster would not be given."""
    from tidegate.pipelines import images
    from tidegate.pipelines.manifests import in_git

    images.check_before_deploy(environment, release, terminal().progress)
    if folder is not None:
        in_git.require_folder(folder)


def _start_in_git(
    environment: Environment, release: Release, made: RolloutPlan, folder: Path, *, replace: bool, push: bool
) -> None:
    from tidegate.pipelines.manifests import in_git

    t = terminal()
    message = f"Roll out {release.model} version {release.version}\n\nRelease {release.id}, rollout {made.rollout}."
    kept: list[in_git.Committed] = []

    def commit(documents: Sequence[Any]) -> str:
        kept.append(in_git.commit(folder, made.rollout, documents, message, push=push))
        return kept[0].commit

    rollout = environment.kube_driver.start_in_git(release.id, made, commit, by_hand=True, replace=replace)
    done = kept[0]
    document = {**environment.driver.status(rollout.id), "git": {"branch": done.branch, "commit": done.commit}}
    how = "Merge it" if done.pushed else f"Push and merge it (`git push origin {done.branch}`)"
    text = f"Rollout {rollout.id} is commit {done.commit[:10]} on {done.branch}. {how}: it begins once it is applied."
    t.show(document, lambda console: console.print(text, markup=False, soft_wrap=True))


@app.command()
def status(
    rollout: Which = None,
) -> None:
    """Show where a rollout stands: weight, users, and each metric with its evidence."""
    from tidegate.pipelines import documents

    document = documents.rollout(_environment(), rollout)
    terminal().show(document, lambda console: _print_status(console, document))
    if document["state"] in {"running", "held"} and not document["watched"]:
        down = "The stack is down: nobody counts or decides until `tidegate up -d`."
        terminal().warn(document["cluster"]["message"] if "cluster" in document else down)


@app.command()
def watch(
    timeout: Annotated[str | None, typer.Option(help="Stop watching after this long; the rollout goes on.")] = None,
) -> None:
    """Follow the newest rollout until it is decided. Exit code 5: not decided; 6: rolled back."""
    from tidegate.pipelines import aliases

    t = terminal()
    environment = _environment()
    deadline = time.monotonic() + duration(timeout, "--timeout") if timeout else None
    rollout = environment.driver.status()["id"]
    with explained(lambda _: watching(environment, rollout)), _screen(t, environment, rollout) as show:
        while True:
            document = environment.driver.status(rollout)
            show(document)
            over = deadline is not None and time.monotonic() > deadline
            if document["state"] != "running" or over:
                if environment.on_cluster:
                    aliases.sync(environment, t.progress)
                raise typer.Exit(_exit_code(document["state"]))
            time.sleep(_POLL_SECONDS)


@app.command()
def report(
    rollout: Which = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; default: rollout-ID.html in this folder.", metavar="FILE")
    ] = None,
) -> None:
    """Write one HTML page of a rollout: evidence over time, users, and who decided what; it needs no network."""
    from tidegate.cli.files import replace_file
    from tidegate.pipelines import documents
    from tidegate.rollouts.report import report as brought_together
    from tidegate.rollouts.report_page import page

    t = terminal()
    environment = _environment()
    status = documents.rollout_status(environment, rollout)
    with t.progress.task("judge the recorded blocks once more"):
        made = brought_together(t.project.config.model, status, environment.ledger.events(), environment.store)
    path = (output or Path(f"rollout-{status['id']}.html")).resolve()
    replace_file(path, page(made))
    document = {**made.to_dict(), "path": str(path)}
    t.show(document, lambda console: console.print(str(path), markup=False, soft_wrap=True))


@app.command()
def promote(
    full: Annotated[bool, typer.Option("--full", help="Go to 100 % at once, not only to the next step.")] = False,
    reason: Reason = "promoted by hand",
) -> None:
    """Pass the running step or shadow phase, or the whole rollout, whatever the judge says."""
    from tidegate.pipelines import aliases

    t = terminal()
    environment = _environment()
    after = environment.driver.promote(full=full, reason=reason)
    if not after.open:
        aliases.sync(environment, t.progress)
    t.show(
        environment.driver.status(after.id),
        lambda console: console.print(f"Rollout {after.id} is at {after.weight} %."),
    )


@app.command()
def abort(reason: Reason = "aborted by hand") -> None:
    """Send every user back to the champion and end the rollout."""
    t = terminal()
    environment = _environment()
    after = environment.driver.abort(reason)
    t.show(environment.driver.status(after.id), lambda console: console.print(f"Rollout {after.id} was aborted."))


@app.command()
def history() -> None:
    """List every rollout of this environment."""
    from tidegate.pipelines import documents

    environment = _environment()
    if environment.on_cluster:
        environment.kube_driver.settle()
    document = documents.rollouts(environment.state())
    terminal().show(document, lambda console: _print_history(console, document["rollouts"]))


@app.command()
def replay(
    policy: Annotated[
        Path, typer.Option("--plan", help="The policy under test: YAML with a `rollout:` section or its keys alone.")
    ],
    blocks: Annotated[
        Path,
        typer.Option(
            "--blocks",
            help="JSON lines, or a folder of .jsonl files: what each arm did in each interval. - reads stdin.",
        ),
    ],
    block: Annotated[str, typer.Option(help="How long one `minute` of the blocks is.")] = "60s",
) -> None:
    """Judge recorded blocks by a policy, each stream as a rollout of its own; needs no project."""
    from tidegate.core.config import Rollout, load_section
    from tidegate.rollouts.block_lines import parse, read
    from tidegate.rollouts.replay import replay as judge_all

    t = terminal()
    seconds = duration(block, "--block")
    section = load_section(policy, Rollout, within="rollout")
    with t.progress.task("read the blocks"):
        lines = read(parse(_lines_of(blocks)))
    with t.progress.task(f"judge {len(lines.streams):,} {'stream' if len(lines.streams) == 1 else 'streams'}"):
        streams = judge_all(section, lines, seconds)
    t.show({"kind": "replay", "streams": streams}, lambda console: _print_replay(console, streams))


@app.command()
def simulate(
    scenario: Annotated[
        str | None, typer.Argument(help="A built-in scenario, or the path of a YAML file.", metavar="SCENARIO")
    ] = None,
    runs: Annotated[int | None, typer.Option(help="Rollouts to draw, instead of the scenario's own number.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the random numbers, instead of the scenario's own.")] = None,
    every: Annotated[bool, typer.Option("--list", help="List the built-in scenarios.")] = False,
) -> None:
    """Try a policy on made-up traffic, beside other tools' rules. Exit code 3: an expectation does not hold."""
    from tidegate.cli import simulation_tables
    from tidegate.core.errors import UsageError
    from tidegate.rollouts.simulation.run import simulate as play_all
    from tidegate.rollouts.simulation.scenario import load, names

    t = terminal()
    if every:
        listed = [{"name": name, "about": load(name).about} for name in names()]
        document = {"kind": "simulations", "scenarios": listed}
        t.show(document, lambda console: simulation_tables.print_names(console, listed))
        return
    if scenario is None:
        raise UsageError("Which scenario?", "`tidegate rollout simulate --list` shows the built-in ones.")
    report = play_all(scenario, load(scenario, runs=runs, seed=seed), t.progress)
    t.show(report.to_dict(), lambda console: simulation_tables.print_report(console, report))
    if report.broken():
        raise typer.Exit(ExitCode.REFUSED)


def _lines_of(path: Path) -> Iterator[str]:
    """Of stdin, of a file, or of a folder's files in the order of their names, as the store keeps blocks."""
    from tidegate.core.errors import UsageError

    if str(path) == "-":
        yield from sys.stdin
        return
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        hint = "A rollout's own blocks are in .tidegate/store/rollouts/ID/blocks."
        raise UsageError(f"The folder {path} holds no .jsonl file.", hint)
    try:
        for file in files:
            with file.open(encoding="utf-8") as opened:
                yield from opened
    except OSError as error:
        hint = "--blocks names a file of JSON lines or a folder of .jsonl files."
        raise UsageError(f"{error.filename or path} cannot be read: {error.strerror}.", hint) from error


def _environment() -> Environment:
    from tidegate.pipelines.environment import environment_for

    return environment_for(terminal().project)


@contextmanager
def _screen(t: Terminal, environment: Environment, rollout: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """How `watch` shows a document: a picture that is drawn anew on a terminal, elsewhere a line when it changed."""
    if t.draws:
        from tidegate.cli.rollout_view import live
        from tidegate.rollouts.plan import RolloutPlan

        kept = next(one.plan for one in environment.state().rollouts if one.id == rollout)
        with live(t.console, RolloutPlan.from_dict(kept)) as show:
            yield show
        return
    shown = ""

    def line(document: dict[str, Any]) -> None:
        nonlocal shown
        text = _line(document)
        if text != shown:
            t.line(document, text)
            shown = text

    yield line


def _exit_code(state: str) -> ExitCode:
    if state == "promoted":
        return ExitCode.OK
    return ExitCode.ROLLED_BACK if state in {"rolled_back", "aborted"} else ExitCode.INCONCLUSIVE


def _line(document: dict[str, Any]) -> str:
    units = document["units"]
    left = document["forecast_seconds"]
    head = f"{document['id']}  {document['state'].replace('_', ' '):<12} "
    shadow = document["shadow"]
    if shadow is not None and shadow["running"]:
        return f"{head}shadow  {shadow.get('sentence', _NO_COPIES)}{_rest(document, left, 'phase')}"
    text = f"{head}{document['weight']:>3} %  canary {units['canary']:,}  stable {units['stable']:,} users"
    metrics = "".join(
        f"  {one['name']} {_evidence(one['log_e_harm'])} harm {_evidence(one['log_e_safe'])} safe"
        for one in document["metrics"]
    )
    return text + metrics + _rest(document, left, "step")


def _rest(document: dict[str, Any], left: float | None, part: str) -> str:
    about = f"  about {left / 60:.1f} min left in this {part}" if left else ""
    because = f"\n  {'; '.join(document['reasons'])}" if document["state"] != "running" and document["reasons"] else ""
    return about + because


def _evidence(log_e: float | None) -> str:
    """Odds against the null hypothesis; 20:1 decides at 5 %."""
    from math import exp

    return f"{exp(min(log_e or 0.0, 20)):.3g}:1"


def _print_status(console: Console, document: dict[str, Any]) -> None:
    arms = document["arms"]
    console.print(
        f"rollout {document['id']}: version {arms['canary']['version']} against {arms['stable']['version']}, "
        f"{document['state'].replace('_', ' ')}, {document['weight']} % on the canary",
        markup=False,
    )
    shadow = document["shadow"]
    if shadow is not None:
        word = "shadow phase, no user meets the canary" if shadow["running"] else "shadow phase"
        console.print(f"  {word}: {shadow.get('sentence', _NO_COPIES)}", markup=False, soft_wrap=True)
    if shadow is None or not shadow["running"]:
        _print_evidence(console, document)
    said = {metric["sentence"] for metric in document["metrics"]} | {(shadow or {}).get("sentence")}
    for reason in document["reasons"]:
        if reason not in said:
            console.print(f"  {reason}", markup=False, soft_wrap=True)


def _print_evidence(console: Console, document: dict[str, Any]) -> None:
    for metric in document["metrics"]:
        console.print(f"  {metric['sentence']}", markup=False, soft_wrap=True)
        if "labelled" in metric:
            shares = " and ".join(f"{100 * share:.0f} % of {arm}'s" for arm, share in metric["labelled"].items())
            console.print(f"  ({shares} users who are old enough have a label)", markup=False, soft_wrap=True)
    if document.get("late_labels"):
        console.print(
            f"  {document['late_labels']:,} labels came later than monitor.labels.maturity and did not count",
            soft_wrap=True,
        )
    srm = document["srm"]
    console.print(
        f"  sample ratio {'as planned' if srm['ok'] else 'NOT as planned: nothing can be concluded'}", markup=False
    )


def _print_plan(console: Console, made: RolloutPlan) -> None:
    from rich.table import Table

    from tidegate.rollouts.words import baseline_sentences, bunching_sentence

    console.print(
        f"{made.units_per_minute:,.0f} new users a minute, mode {made.mode}, blocks of {made.block_seconds:g} s"
    )
    if made.shadow_min:
        console.print(
            f"first {_time(made.shadow_min)} of copied traffic: no user meets the canary, its answers are compared"
        )
    table = Table("weight", "a good canary passes in", "after canary users", "waits for", "ends after", box=None)
    for step, maximum in zip(made.forecast, made.step_max, strict=True):
        units = "-" if step.canary_units is None else f"{step.canary_units:,.0f}"
        table.add_row(f"{step.weight} %", _time(step.promote_seconds), units, step.slowest, _time(maximum))
    console.print(table)
    if made.forecast_seconds is not None and made.exposed_units is not None:
        console.print(
            f"A good canary is everybody's after {_time(made.forecast_seconds)}; until then {made.exposed_units:,.0f} "
            "users meet it.",
            soft_wrap=True,
        )
    effects = Table("if the canary has", *(f"rolled back at {step.weight} % in" for step in made.forecast), box=None)
    for name in made.forecast[0].rollback_seconds if made.forecast else ():
        effects.add_row(name, *(_time(step.rollback_seconds.get(name)) for step in made.forecast))
    goals = Table(
        "if the canary has", *(f"the goal is proven at {step.weight} % in" for step in made.forecast), box=None
    )
    for name in made.forecast[0].goal_seconds if made.forecast else ():
        goals.add_row(name, *(_time(step.goal_seconds.get(name)) for step in made.forecast))
    for table in (effects, goals):
        if table.row_count:
            console.print(table)
    for warning in (*baseline_sentences(made), *filter(None, [bunching_sentence(made)]), *made.warnings):
        console.print(warning, markup=False, soft_wrap=True)


def _print_suggestion(console: Console, made: RolloutPlan) -> None:
    steps = ", ".join(map(str, made.steps))
    longest = max(made.step_max, default=0.0)
    step = f"{{min: {made.step_min:.0f}s, max: {longest:.0f}s}}"
    rest = ["guardrails:", *(f"  - {_guarded(one)}" for one in made.guardrails)]
    if made.goal is not None:
        rest.append(f"goal: {{metric: '{made.goal.metric}', improve_by: {made.goal.improve_by:g}}}")
    if made.shadow_min:
        rest.append("shadow: true")
    text = "\n".join(f"  {line}" for line in (f"mode: {made.mode}", f"steps: [{steps}]", f"step: {step}", *rest))
    console.print(f"rollout:\n{text}", markup=False, soft_wrap=True)


def _guarded(guardrail: GuardrailPlan) -> str:
    stream = guardrail.streams[0]
    lines = ", ".join(
        f"{name}: {{ratio: {line.ratio:g}, margin: {line.margin:g}}}"
        for name, line in (("harm", stream.harm), ("safe", stream.safe))
    )
    return f"{{metric: '{guardrail.metric}', {lines}}}"


def _print_history(console: Console, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("id", "state", "version", "against", "started", "because", box=None)
    for row in rows:
        cells = [row["id"], row["state"], str(row["version"]), str(row["against"]), row["started_at"][:19]]
        table.add_row(*cells, _because(console, row["reasons"]))
    _print_whole(console, table)


def _print_replay(console: Console, streams: list[Replayed]) -> None:
    from collections import Counter

    from rich.table import Table

    table = Table("stream", "decision", "block", "canary units", "because", box=None)
    for one in streams[:_SHOWN]:
        minute = "" if one.minute is None else str(one.minute)
        table.add_row(one.stream, one.decision, minute, f"{one.canary_units:,.0f}", _because(console, one.reasons))
    _print_whole(console, table)
    if len(streams) > _SHOWN:
        console.print(f"... and {len(streams) - _SHOWN:,} more; --json prints all of them")
    counts = Counter(one.decision for one in streams)
    console.print(", ".join(f"{count:,} {word}" for word, count in counts.most_common()) or "no stream in the blocks")


def _print_whole(console: Console, table: Table) -> None:
    """In a pipe a row is one line, however long; a terminal's table is as wide as the terminal."""
    if not console.is_terminal:
        console.width = _ONE_LINE
    console.print(table)


def _because(console: Console, reasons: Sequence[str]) -> str:
    """Cut to what a terminal's table has room for; whole in a pipe, where somebody may look for its end."""
    text = "; ".join(reasons)
    return text[:_READABLE] if console.is_terminal else text


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "longer than 48 h"
    if seconds < 120:  # noqa: PLR2004 - two minutes read better as seconds
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - two hours
