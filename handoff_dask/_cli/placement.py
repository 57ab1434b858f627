"""Options of commands that place functions, on a cluster or on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from handoff_dask._client.options import DEFAULT_STRATEGY
from handoff_dask._scheduling.allocators import ALLOCATORS


def placement_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how functions are placed."""
    strategy = click.option(
        "--strategy",
        type=click.Choice(list(ALLOCATORS)),
        default=DEFAULT_STRATEGY,
        show_default=True,
        help="Which of several nodes gets a function that fits on each.",
    )
    most = click.option(
        "--max-concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help="Run no more than so many functions at once.",
    )
    return strategy(most(command))
