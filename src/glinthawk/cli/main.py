"""``glinthawk``: its commands, and how errors become exit statuses."""

import sys

import typer

from glinthawk.cli.bench_command import bench
from glinthawk.cli.keygen_command import keygen
from glinthawk.cli.merge_command import merge
from glinthawk.cli.node_command import node
from glinthawk.cli.plan_command import plan
from glinthawk.cli.profile_command import profile
from glinthawk.cli.replay_command import replay
from glinthawk.cli.run_command import run
from glinthawk.cli.simulate_command import simulate
from glinthawk.cli.worker_command import worker
from glinthawk.core.errors import GlinthawkError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Offline LLM inference on two tiers: weights on accelerators, KV cache and attention on "
    "cheap memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(merge)
app.command()(worker)
app.command()(node)
app.command()(keygen)
app.command()(plan)
app.command()(simulate)
app.command()(profile)
app.command()(replay)
app.add_typer(bench, name="bench")


def main(commands: typer.Typer = app) -> None:
    """Run a command. Status 2 and one line on standard error if it could not run."""
    try:
        commands()
    except GlinthawkError as error:
        sys.stderr.write(f"glinthawk: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("glinthawk: stopped\n")
        sys.exit(130)
