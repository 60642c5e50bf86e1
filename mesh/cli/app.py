"""The commands of `mesh`, put together."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.agent import app as agents
from mesh.cli.dead_letter import app as dead_letters
from mesh.cli.demo import demo
from mesh.cli.event import app as events
from mesh.cli.failure import reported
from mesh.cli.history import replay, trace
from mesh.cli.local import down, status, up
from mesh.cli.option import DATA_HELP, FLAG
from mesh.cli.task import app as tasks

__all__ = ["app", "main"]

app = typer.Typer(
    name="mesh",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 done, 1 the task or check failed, 2 wrong usage, 3 mesh not reachable,"
        " 4 refused."
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mesh {version('relay-mesh')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help=DATA_HELP)] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar=FLAG, callback=_show_version, is_eager=True, help="Print it."
        ),
    ] = False,
) -> None:
    """Independent agents that hand work to one another, over one durable log."""


app.command()(demo)
app.command()(up)
app.command()(down)
app.command()(status)
app.add_typer(tasks, name="task")
app.add_typer(events, name="events")
app.command()(replay)
app.command()(trace)
app.add_typer(agents, name="agents")
app.add_typer(dead_letters, name="dlq")


def main() -> None:
    """Run the command line; ends the process with the command's exit code."""
    sys.exit(reported(app))
