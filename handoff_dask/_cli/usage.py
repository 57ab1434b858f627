"""``usage``: what functions asked for and used, over the runs of a history."""

from __future__ import annotations

from dataclasses import asdict

import click

from handoff_dask._cli.errors import debug_option
from handoff_dask._cli.output import json_option, print_json, table
from handoff_dask._client.history import History
from handoff_dask._display.usage_table import HEAD, cells, heading
from handoff_dask._model.resources import MEASURED


@click.command(short_help="Show what functions asked for and used.")
@click.argument("history", type=click.Path(exists=True, dir_okay=False), metavar="FILE")
@click.option(
    "--resource",
    type=click.Choice(MEASURED),
    default=MEASURED[0],
    show_default=True,
    help="Peak memory in MB, or the mean number of cores.",
)
@json_option
@debug_option
def usage(history: str, resource: str, as_json: bool) -> None:
    """Show what functions asked for and used, and which cost would have sufficed.

    FILE is a history, as written by `run --history`. Each row is about the attempts of one code, over all
    runs. `~` marks values that include estimates, from attempts that shared a process with others.
    """
    with History(history) as known:
        found = known.usage(resource)
    if as_json:
        print_json([asdict(row) for row in found])
        return
    click.echo(heading(found))
    if len(found):
        click.echo()
        table(HEAD, map(cells, found), truncate=("code",))
