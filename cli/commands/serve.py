"""`tidegate serve`: one of the HTTP apps alone; what `up` and pods run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

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
