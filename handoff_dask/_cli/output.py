"""Tables and JSON on standard output."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import click

from handoff_dask._display.table import table_lines
from handoff_dask._model.safe_repr import safe_repr

#: Maximum number of functions in a table.
MAX_ROWS = 30


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    truncate: Sequence[str] = (),
    total: int | None = None,
) -> None:
    """Print a table that fits in the terminal. Columns of numbers are aligned to the right.

    Parameters
    ----------
    head : sequence of str
        Titles of the columns.
    rows : iterable of sequences
        Cells of each row; None becomes an empty cell. All rows are printed.
    truncate : sequence of str
        Columns that may be truncated on a narrow terminal, in this order.
    total : int, optional
        Number of items, if ``rows`` does not contain all of them.
    """
    for line in table_lines(head, rows, truncate=truncate, total=total, width=_width()):
        click.echo(line)


def _width() -> int:
    # Truncate for terminals only: programs that read the output need all of it.
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000


def timestamp_text(value: float) -> str:
    """Return seconds since the epoch as date and local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))


def jsonable(value: Any) -> Any:
    """Return a value in a form that JSON can represent; other values become their ``repr``.

    JSON keys are text. A mapping with two keys of the same text, such as 1 and "1", becomes a list of pairs.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)  # infinity and NaN are not JSON
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, dict):
        named = {k if isinstance(k, str) else safe_repr(k): jsonable(v) for k, v in value.items()}
        return named if len(named) == len(value) else [[jsonable(k), jsonable(v)] for k, v in value.items()]
    return safe_repr(value)


def print_json(value: Any, out: TextIO | None = None) -> None:
    """Print a JSON document, by default on standard output."""
    click.echo(json.dumps(jsonable(value), indent=2), file=out)


@contextmanager
def reserve_stdout(document: bool) -> Iterator[TextIO]:
    """Return standard output. If ``document`` is true, redirect all other output to standard error.

    This affects output of user code, in this process and in processes of nodes, and of programs that it runs.
    The redirection is permanent, since functions may still be running when the command ends.
    """
    out = sys.stdout
    if not document:
        yield out
        return
    with redirect_stdout(sys.stderr):
        try:
            number, error = out.fileno(), sys.stderr.fileno()
        except OSError:  # a stream without a file descriptor
            yield out
            return
        out.flush()
        with open(os.dup(number), "w", encoding=out.encoding, errors=out.errors) as reserved:
            os.dup2(error, number)
            yield reserved


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
