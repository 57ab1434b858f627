"""Options of commands that place functions, on a cluster or in a simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from handoff_dask._client.options import DEFAULT_STRATEGY
from handoff_dask._scheduling.allocators import ALLOCATORS


def placement_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options ``--strategy`` and ``--max-concurrency``."""
    strategy = click.option(
        "--strategy",
        type=click.Choice(list(ALLOCATORS)),
        default=DEFAULT_STRATEGY,
        show_default=True,
        help="How to choose among nodes where a function fits.",
    )
    max_concurrency = click.option(
        "--max-concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help="Maximum number of functions that run at once.",
    )
    return strategy(max_concurrency(command))
