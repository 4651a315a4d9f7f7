"""`tidegate serve`: one of the HTTP apps alone; what `up` and pods run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.console.judge import Settling
    from tidegate.pipelines.environment import Environment

app = typer.Typer(help="Run one of the HTTP apps alone; `tidegate up` runs them too.", no_args_is_help=True)

# Seconds that open requests get when it is ended.
_DRAIN = 3


@app.callback()
def _group() -> None:
    """Run one of the HTTP apps alone; `tidegate up` runs them too."""


@app.command()
def console(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: advanced.console_port.", min=1, max=65535)] = None,
) -> None:
    """Serve the web page and its HTTP API until Ctrl-C; beyond this machine only with tokens that were given to it."""
    import uvicorn

    from tidegate.console.app import create_app
    from tidegate.pipelines.environment import environment_for
    from tidegate.serving.gateway.ports import require_free

    t = terminal()
    environment = environment_for(t.project)
    _refuse_open_doors(host)
    wanted = port or environment.project.config.advanced.console_port
    made = create_app(environment)
    require_free(host, wanted, "advanced.console_port")
    address = f"http://{f'[{host}]' if ':' in host else host}:{wanted}"
    t.show({"kind": "console", "console": address}, lambda out: _say(out, address, environment))
    uvicorn.run(
        made,
        host=host,
        port=wanted,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN,
    )


@app.command()
def judge(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8080,
    store: Annotated[
        str, typer.Option(help="Folder or address; default: the store of the project.", envvar="TIDEGATE_JUDGE_STORE")
    ] = "",
) -> None:
    """Serve verdicts to analyses of Argo Rollouts until Ctrl-C; TIDEGATE_JUDGE_TOKEN holds the token."""
    import uvicorn

    from tidegate.console.judge import Tokens, create_judge
    from tidegate.console.judge_desk import Desk
    from tidegate.core.store import open_store
    from tidegate.serving.gateway.ports import require_free

    t = terminal()
    tokens = Tokens()
    desk = Desk(open_store(store or t.project.store_url))
    desk.check()
    require_free(host, port, "--port")
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    t.show({"kind": "judge", "judge": address}, lambda out: out.print(f"judge  {address}", markup=False))
    uvicorn.run(
        create_judge(desk, tokens, list if store else _settling),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN,
    )


def _settling() -> list[Settling]:
    """The driver of the project's environment, inside a cluster: it brings the ledger up to what Argo did."""
    from tidegate.pipelines.environment import environment_for

    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return []
    environment = environment_for(terminal().project)
    return [environment.kube_driver] if environment.on_cluster else []


def _refuse_open_doors(host: str) -> None:
    from tidegate.console.auth import TOKENS
    from tidegate.core.errors import UsageError

    if host not in {"127.0.0.1", "localhost", "::1"} and not os.environ.get(TOKENS):
        raise UsageError(
            f"On {host} other machines can reach the console, and no tokens were given to it.",
            f"Set {TOKENS}=viewer:TOKEN,operator:TOKEN first; `openssl rand -hex 32` makes a token.",
        )


def _say(out: Console, address: str, environment: Environment) -> None:
    from tidegate.cli.commands.stack import to_open

    out.print(f"console  {to_open(out, address, environment)}", markup=False, soft_wrap=True)
