"""Tables and JSON on standard output."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import click

from handoff_dask._model.safe_repr import safe_repr, safe_str

#: Rows of a table that are shown.
SHOWN = 30

#: No column is made narrower than this.
_NARROW = 12

#: Texts that are aligned as numbers are.
_QUANTITY = re.compile(r"[\d.,]+(%| (ms|s|min( \d+ s)?|h( \d+ min)?))")


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    cut: Sequence[str] = (),
    total: int | None = None,
) -> None:
    """Print a table that fits in the terminal; columns of numbers are aligned to the right.

    Parameters
    ----------
    head : sequence of str
    rows : iterable of sequences
        None is left empty. As many rows as there are in ``rows`` are printed.
    cut : sequence of str
        Columns that may be cut short where the terminal is too narrow, the first of them first.
    total : int, optional
        How many there are, if not all are in ``rows``.
    """
    listed = [tuple(row) for row in rows]
    texts = [[_text(cell) for cell in row] for row in listed]
    columns = list(zip(head, *texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    gaps = 2 * (len(head) - 1)
    for name in cut:
        if name in head:
            i, excess = list(head).index(name), sum(widths) + gaps - _width()
            widths[i] = min(widths[i], max(_NARROW, widths[i] - excess))
    right = [_is_numbers([row[i] for row in listed]) for i in range(len(head))]
    for line in (head, *texts):
        cells = (
            _cut(cell, width).rjust(width) if to_right else _cut(cell, width).ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
    if total is not None and total > len(listed):
        click.echo(f"... and {total - len(listed):,d} more")


def _width() -> int:
    # Whatever is not a terminal gets all of it: programs do not mind long lines.
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000


def _is_numbers(column: Sequence[Any]) -> bool:
    """Whether a column has numbers, and nothing else."""
    cells = [cell for cell in column if cell is not None and cell != ""]
    return bool(cells) and all(_is_number(cell) for cell in cells)


def _is_number(cell: Any) -> bool:
    if isinstance(cell, str):
        return _QUANTITY.fullmatch(cell) is not None
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell:.12g}" if isinstance(cell, float) else " ".join(safe_str(cell).split())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def moment(value: float) -> str:
    """A point in time for people, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))


def count(n: int, what: str) -> str:
    """A number of things: ``1 function``, ``2 functions``."""
    return f"{n:,d} {what}{'' if n == 1 else 's'}"


def jsonable(value: Any) -> Any:
    """A value as JSON knows it; what JSON does not know as its ``repr``.

    Keys of JSON are text. A mapping of which two keys have the same, such as 1 and "1", is a list of pairs.
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
    """Print one JSON document, on standard output unless told otherwise."""
    click.echo(json.dumps(jsonable(value), indent=2), file=out)


@contextmanager
def only_ours(document: bool) -> Iterator[TextIO]:
    """Standard output. For a document, all else that would be written there goes to standard error.

    That is what code of the user prints, in this process and in those of nodes, and what programs write that
    it runs. It stays so when the command has ended: functions that nobody waits for may still run then.
    """
    out = sys.stdout
    if not document:
        yield out
        return
    with redirect_stdout(sys.stderr):
        try:
            number, error = out.fileno(), sys.stderr.fileno()
        except OSError:  # one of Python's own
            yield out
            return
        out.flush()
        with open(os.dup(number), "w", encoding=out.encoding, errors=out.errors) as ours:
            os.dup2(error, number)
            yield ours


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
