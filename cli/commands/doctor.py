"""`tidegate doctor`: what is missing, and one fix for each finding."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import terminal
from tidegate.core.config import LOCAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from tidegate.cli.terminal import Terminal
    from tidegate.core.project import Project
    from tidegate.pipelines.image_check import Examined
    from tidegate.pipelines.machine import Finding
    from tidegate.pipelines.traffic_check import Seen

app = typer.Typer(invoke_without_command=True)
_MARKS = {"ok": "ok  ", "warning": "warn", "problem": "FAIL"}


@app.callback()
def doctor(context: typer.Context) -> None:
    """Say what this machine, or the cluster of --env, lacks: one fix per finding; exit 1 if something blocks."""
    if context.invoked_subcommand is not None:
        return
    t = terminal()
    cluster = t.env != LOCAL and t.project.config.environment(t.env).kind == "kubernetes"
    with t.progress.task("Looking at the cluster" if cluster else "Looking at this machine"):
        findings = tuple(_on_cluster(t.project) if cluster else _here(t))
    well = all(finding.status != "problem" for finding in findings)
    document = {"kind": "doctor", "ok": well, "findings": [dataclasses.asdict(finding) for finding in findings]}
    t.show(document, lambda console: _render(console, findings))
    if not well:
        raise typer.Exit(1)


def _here(t: Terminal) -> Iterator[Finding]:
    from tidegate.pipelines.machine import examine

    return examine(t.directory, lambda: t.project)


def _on_cluster(project: Project) -> Iterator[Finding]:
    from tidegate.core.kube import Cluster
    from tidegate.pipelines.cluster_check import PATIENCE, examine

    place = project.config.environment(project.env)

    def opened(namespace: str) -> Cluster:
        return Cluster(place.context, namespace, patience=PATIENCE)

    return examine(project, opened(place.namespace), opened)


@app.command()
def traffic(
    users: Annotated[int, typer.Option(help="How many made-up users ask, thrice each.", min=1, max=100_000)] = 1000,
) -> None:
    """Ask the running gateway as many users: one arm each, the share that was planned, the formula's arms.

    The requests are no predictions, so the judge never counts them. Exit 1 if a promise is broken.
    """
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.traffic_check import check

    t = terminal()
    with t.progress.task("Asking the gateway"):
        seen = check(environment_for(t.project), users)
    problems = seen.found.problems()
    document = {
        "kind": "doctor_traffic",
        "ok": not problems,
        "rollout": seen.rollout,
        **dataclasses.asdict(seen.found),
        "problems": list(problems),
    }
    t.show(document, lambda console: _render_traffic(console, seen, problems))
    if problems:
        raise typer.Exit(1)


@app.command()
def image(
    what: Annotated[str, typer.Argument(help="A release, or an image's name or digest.", metavar="IMAGE")],
) -> None:
    """Verify an image, run it as a cluster would, and compare its answers with the release; exit 1 on a problem."""
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.image_check import examine

    t = terminal()
    seen = examine(environment_for(t.project), what, t.progress)
    document = {"kind": "doctor_image", "ok": not seen.problems, **dataclasses.asdict(seen)}
    t.show(document, lambda console: _render_image(console, seen))
    if seen.problems:
        raise typer.Exit(1)


def _render_image(console: Console, seen: Examined) -> None:
    console.print(f"{seen.reference} is release {seen.release}", markup=False, highlight=False, soft_wrap=True)
    for layer in seen.layers:
        console.print(f"{layer.size / 1e6:8.1f} MB  {layer.made_by[:68]}", markup=False, highlight=False)
    console.print(f"{seen.size / 1e6:8.1f} MB  in all", highlight=False)
    ports = ", ".join(seen.ports)
    console.print(f"user {seen.user}, ports {ports}, {seen.provider or 'Python'}", markup=False, highlight=False)
    console.print(f"ready after {seen.start:.1f} s, stopped in {seen.stop:.1f} s", highlight=False)
    for problem in seen.problems:
        console.print("FAIL", style="bold red", end="  ")
        console.print(problem, markup=False)
    if not seen.problems:
        console.print("ok  ", style="green", end="  ")
        console.print(f"{seen.rows} rows answered as by the release, at most {seen.difference:.1g} apart", markup=False)


def _render_traffic(console: Console, seen: Seen, problems: tuple[str, ...]) -> None:
    found = seen.found
    about = f"rollout {seen.rollout} at {found.weight} %" if seen.rollout else "no rollout"
    console.print(f"{found.users:,} users, {found.requests:,} requests, {about}: {found.canary:,} users on the canary")
    for problem in problems:
        console.print("FAIL", style="bold red", end="  ")
        console.print(problem, markup=False)
    if problems:
        console.print("      `tidegate ps` and `tidegate logs gateway` show what runs; then ask again.", markup=False)
    else:
        console.print("ok  ", style="green", end="  ")
        console.print("every user has one arm, and it is the one that the formula gives", markup=False)


def _render(console: Console, findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        style = {"ok": "green", "warning": "yellow", "problem": "bold red"}[finding.status]
        console.print(_MARKS[finding.status], style=style, end="  ")
        console.print(f"{finding.name}: {finding.detail}", markup=False)
        if finding.fix:
            console.print(f"      {finding.fix}", markup=False)
