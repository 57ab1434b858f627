"""Parts of the messages of :mod:`handoff_dask.exceptions`, and numbers with their nouns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handoff_dask._model.records import Attempt
    from handoff_dask.exceptions import FunctionFailedError

#: Most problems, attempts, shortfalls or ids listed in a message before "and N more".
MAX_LISTED = 10

#: Memory addresses, which differ between equal errors.
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")

#: The node's name in a run without a cluster.
_LOCAL = "local"


def count(n: int, noun: str) -> str:
    """Return a number and its noun: ``1 function``, ``2 functions``."""
    return f"{n:,d} {plural(n, noun)}"


def plural(n: int, noun: str) -> str:
    """Return the noun of ``n`` things: ``function`` or ``functions``."""
    return noun if n == 1 else f"{noun}s"


def bullet_list(items: Iterable[str], total: int) -> str:
    """Return one line for each item, and a last line if ``total`` exceeds their number."""
    lines = list(items)
    if total > len(lines):
        lines.append(f"... and {total - len(lines)} more")
    return "\n".join(f"  - {line}" for line in lines)


def list_attempts(attempts: Sequence[Attempt]) -> str:
    """Return the last attempts as a list. Successive attempts with the same error share a line."""
    groups = [list(group) for _, group in groupby(attempts, _error_of)][-MAX_LISTED:]
    left_out = len(attempts) - sum(len(group) for group in groups)
    return bullet_list(map(_describe, groups), len(groups) + left_out)


def same_error(attempts: Sequence[Attempt]) -> str | None:
    """Return what it means that all failed attempts had the same error; None if they did not."""
    failed = [a for a in attempts if a.outcome == "failed"]
    if len(failed) < 2 or len({_error_of(a) for a in failed}) > 1:
        return None
    nodes = len({a.node for a in failed})
    return f"same error on {nodes} nodes: not the nodes' fault" if nodes > 1 else "same error each time"


def advise_modules(failures: Iterable[FunctionFailedError]) -> list[str]:
    """Return how to bring modules to the nodes on which functions did not find them, one text per module."""
    lacking: dict[str, Any] = {}
    for failure in failures:
        error = failure.__cause__
        if isinstance(error, ModuleNotFoundError) and error.name and failure.attempts:
            lacking.setdefault(error.name, failure.attempts[-1].node)
    return [
        f"Node {node!r} has no module {name!r}. Install it on all nodes, for example with the plugin"
        " dask.distributed.PipInstall. If the module is your own, upload it with"
        f" client.upload_file({name.partition('.')[0] + '.py'!r}), or its package with the plugin"
        " dask.distributed.UploadDirectory, or send its functions by value with"
        " cloudpickle.register_pickle_by_value."
        for name, node in lacking.items()
        if node != _LOCAL
    ]


def _error_of(attempt: Attempt) -> tuple[str, str]:
    return attempt.outcome, _ADDRESS.sub("0x", attempt.error or "")


def _describe(group: Sequence[Attempt]) -> str:
    first, last = group[0], group[-1]
    numbers = f"attempt {first.number}"
    if len(group) > 1:
        numbers = f"attempts {first.number} {'and' if len(group) == 2 else 'to'} {last.number}"
    nodes = list(dict.fromkeys(repr(a.node) for a in group))
    if len(nodes) > MAX_LISTED:
        nodes[MAX_LISTED:] = [f"{len(nodes) - MAX_LISTED} more"]
    return f"{numbers} on {', '.join(nodes)}: {last.error or last.outcome}"
