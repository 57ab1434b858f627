"""Tables as plain text, for the terminal and for ``print``."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from handoff_dask._display.labels import duration_text, memory_text, state_label
from handoff_dask._model.records import Attempt, FunctionRecord
from handoff_dask._model.safe_repr import safe_str

#: Titles of the columns of :func:`function_row`.
FUNCTION_COLUMNS = ("function", "status", "node", "attempts", "took", "cpu time", "memory")

#: Minimum width of a truncated column, in characters.
_MIN_WIDTH = 12

#: Maximum number of functions, and maximum width in characters, of a table of records.
_RECORDS, _WIDTH = 20, 100

#: Text that is aligned to the right, like numbers: percentages, durations, memory, and estimates.
_QUANTITY = re.compile(r"~?[\d.,]+(%| (ms|s|MB|min( \d+ s)?|h( \d+ min)?))?")


def records_text(records: Mapping[Hashable, FunctionRecord]) -> str:
    """Return a table of the first records."""
    rows = [function_row(id, record) for id, record in islice(records.items(), _RECORDS)]
    head, rows = without_empty(FUNCTION_COLUMNS, rows)
    truncate = ("function", "node")
    return "\n".join(table_lines(head, rows, truncate=truncate, total=len(records), width=_WIDTH))


def without_empty(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Leave out the columns for what was measured, if nothing was."""
    measured = ("cpu time", "memory")
    kept = [n for n, name in enumerate(head) if name not in measured or any(row[n] for row in rows)]
    return [head[n] for n in kept], [[row[n] for n in kept] for row in rows]


def function_row(id: Hashable, record: FunctionRecord) -> list[Any]:
    """Return the cells of :data:`FUNCTION_COLUMNS` for a function."""
    last = record.attempts[-1] if record.attempts else Attempt(0)
    times = duration_text(record.duration), duration_text(last.cpu_seconds)
    memory = memory_text(last.peak_memory, last.peak_exact)
    return [id, state_label(record.status), record.node, len(record.attempts), *times, memory]


def table_lines(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    truncate: Sequence[str] = (),
    total: int | None = None,
    width: int,
) -> list[str]:
    """Return a table as lines of at most ``width`` characters. Columns of numbers are aligned to the right.

    Parameters
    ----------
    head, rows, truncate, total
        As for :func:`handoff_dask._cli.output.table`.
    width : int
        A table is wider if its truncated columns would be too narrow.
    """
    listed = [tuple(row) for row in rows]
    texts = [[_text(cell) for cell in row] for row in listed]
    columns = list(zip(head, *texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    gaps = 2 * (len(head) - 1)
    for name in truncate:
        if name in head:
            i, excess = list(head).index(name), sum(widths) + gaps - width
            widths[i] = min(widths[i], max(_MIN_WIDTH, widths[i] - excess))
    right = [_is_numbers([row[i] for row in listed]) for i in range(len(head))]
    lines = []
    for line in (head, *texts):
        cells = (
            _truncate(cell, width).rjust(width) if to_right else _truncate(cell, width).ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    if total is not None and total > len(listed):
        lines.append(f"... and {total - len(listed):,d} more")
    return lines


def _is_numbers(column: Sequence[Any]) -> bool:
    """Return whether all non-empty cells of a column are numbers, and there is at least one."""
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


def _truncate(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
