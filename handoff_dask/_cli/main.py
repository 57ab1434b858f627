"""The command ``handoff-dask`` and its help."""

from __future__ import annotations

import click

from handoff_dask._cli.cluster import nodes, runs
from handoff_dask._cli.dags import show, validate
from handoff_dask._cli.demo import demo
from handoff_dask._cli.errors import Group, debug_option
from handoff_dask._cli.interrupts import exit_on_interrupt
from handoff_dask._cli.run import run
from handoff_dask._cli.simulate import simulate
from handoff_dask._cli.usage import usage
from handoff_dask._version import __version__

EPILOG = """\b
Exit codes:
  0    success
  1    the run failed, timed out, or was cancelled from elsewhere
  2    wrong usage, an invalid DAG, an unusable file, or a missing package
  3    a function fits on no node
  4    the scheduler does not answer, or the cluster cannot run handoff DAGs
  70   any other error
  130  interrupted with Ctrl-C, which cancels the run
"""


@click.group(
    cls=Group,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="handoff-dask")
@debug_option
def cli() -> None:
    """Run DAGs of functions with unequal needs on Dask clusters of unequal machines.

    Results go to standard output; progress and errors go to standard error.
    """


for command in (run, validate, show, simulate, nodes, runs, usage, demo):
    cli.add_command(command)


def main() -> None:
    """Entry point of the command ``handoff-dask``."""
    with exit_on_interrupt():
        cli(prog_name="handoff-dask")
