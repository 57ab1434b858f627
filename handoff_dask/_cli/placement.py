"""Options of commands that place functions, on a cluster or in a simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from handoff_dask._client.options import DEFAULT_STRATEGY
from handoff_dask._model.resources import parse_amounts
from handoff_dask._scheduling.allocators import ALLOCATORS


def placement_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options ``--strategy``, ``--max-concurrency`` and ``--limit``."""
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
    limits = click.option(
        "--limit",
        "limits",
        multiple=True,
        callback=_parse_limits,
        metavar="NAME=AMOUNT",
        help="Amount of a resource that the run may use at once across all nodes, such as db=8. May be"
        " repeated.",
    )
    return strategy(max_concurrency(limits(command)))


def _parse_limits(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any] | None:
    """Return resource → amount: a number, or a text with a unit, such as ``4GB``."""
    limits: dict[str, Any] = {}
    for text in texts:
        name, equals, amount = text.rpartition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not of the form NAME=AMOUNT, such as db=8")
        if name in limits:
            raise click.BadParameter(f"{name!r} has two amounts")
        try:
            limits[name] = float(amount)
        except ValueError:
            limits[name] = amount
        try:
            parse_amounts({name: limits[name]})
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return limits or None
