"""How far a run is, on a terminal, in a notebook or in a log."""

from __future__ import annotations

import os
import sys
from html import escape
from typing import TYPE_CHECKING, Any, TextIO

from handoff_dask._display.markup import bar, states
from handoff_dask._display.text import name_text
from handoff_dask._display.words import seconds
from handoff_dask._model.progress import NodeLoad, Progress, Trouble

if TYPE_CHECKING:
    from handoff_dask._client.progress import Display

#: Seconds after which a log says again how far a run is, when less than another tenth is done.
PAUSE = 60.0

#: Colour of what is in use; not that of what is done, since a node that is full is no success.
BUSY = "#56b4e9"

#: Characters of a bar.
BAR = 20

#: Below this share of work whose duration is known, what is left is at least as much as is said.
KNOWN = 0.75


def display_of(title: str, stream: TextIO | None = None) -> Display:
    """What fits where this is called: a notebook, a terminal, or a file."""
    stream = sys.stderr if stream is None else stream
    if in_notebook():
        return NotebookProgress(title)
    if stream.isatty():
        try:
            return RichProgress(title, stream)
        except ImportError:
            return ProgressLine(stream)
    return ProgressLog(stream)


def in_notebook() -> bool:
    """Whether there is a kernel that shows what is displayed."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    # Also where a product has a shell of its own, made from that one.
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(get_ipython()).__mro__)


def line_of(progress: Progress) -> str:
    """All in one line."""
    if progress.waiting is not None:
        return str(progress.waiting)
    parts = [
        f"{progress.finished:,d} of {progress.total:,d} finished",
        *others_of(progress),
        seconds(progress.elapsed),
    ]
    if left := left_of(progress):
        parts.append(left)
    return ", ".join(parts) + lost_of(progress)


def lost_of(progress: Progress) -> str:
    """Why there is nothing more to show."""
    return "" if progress.lost is None else f"; lost: {progress.lost}"


def others_of(progress: Progress) -> list[str]:
    """Functions in other states, and attempts that came to nothing."""
    found = [
        f"{n:,d} {state}"
        for state, n in progress.counts.items()
        if n and state not in ("finished", "waiting")
    ]
    return found + _retries(progress)


def _retries(progress: Progress) -> list[str]:
    """Attempts that came to nothing, as far as the function was tried again."""
    retried = progress.tries - progress.counts.get("failed", 0)
    return [f"{retried:,d} {'retry' if retried == 1 else 'retries'}"] if retried > 0 else []


def left_of(progress: Progress) -> str:
    """How long it will go on, as far as that is known."""
    left = progress.remaining
    if left is None:
        return ""
    # No estimate is as precise as its digits.
    step = 1 if left < 10 else 10 if left < 600 else 60
    text = seconds(step * max(1, round(left / step)))
    return f"{'about' if progress.known >= KNOWN else 'at least'} {text} left"


def trouble_of(trouble: Trouble) -> str:
    """What happened to an attempt, in a line."""
    where = f" on {trouble.node}" if trouble.node is not None else ""
    what = "failed" if trouble.outcome == "failed" else "was lost"
    after = "for good" if trouble.final else "will be retried"
    error = " ".join((trouble.error or "").split())
    error = error if len(error) <= 160 else error[:157] + "..."
    return f"{trouble.function_id!r} {what}{where}, attempt {trouble.attempt}, {after}" + (
        f": {error}" if error else ""
    )


def troubles_of(progress: Progress) -> list[str]:
    """What happened since the last look."""
    lines = [trouble_of(trouble) for trouble in progress.troubles]
    if progress.more_troubles:
        lines.insert(0, f"{progress.more_troubles:,d} more attempts failed or were lost")
    return lines


def load_of(node: NodeLoad) -> str:
    """What a node does, in short."""
    amounts = (
        f"{name} {node.used.get(name, 0):g} of {there:g}" for name, there in node.capacity.items() if there
    )
    return ", ".join((f"{node.running:,d} running", *amounts))


def busy_share(node: NodeLoad) -> float:
    """Share of the resource of which least is left."""
    shares = [node.used.get(name, 0) / there for name, there in node.capacity.items() if there]
    return min(1.0, max(shares, default=1.0 if node.running else 0.0))


class ProgressLine:
    """One line of a terminal that is overwritten; what failed stays above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def update(self, progress: Progress) -> None:
        """Show it."""
        above = "".join(f"{line}\n\x1b[K" for line in troubles_of(progress))
        self._stream.write(f"\r\x1b[K{above}{line_of(progress)}")
        self._stream.flush()

    def close(self) -> None:
        """Leave the last line as it is."""
        self._stream.write("\n")
        self._stream.flush()


class ProgressLog:
    """A line whenever another tenth is done, it waits for other nodes, or for a while there was no line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tenth = -1
        self._awaited: str | None = None
        self._said = 0.0
        self._unsaid: Progress | None = None

    def update(self, progress: Progress) -> None:
        """Say it, if it is time to."""
        self._unsaid = progress
        tenth = 10 * progress.finished // max(1, progress.total)
        awaited = None if progress.waiting is None else progress.waiting.awaited
        if awaited != self._awaited or tenth > self._tenth or progress.elapsed - self._said >= PAUSE:
            self._tenth = max(tenth, self._tenth)
            self._awaited = awaited
            self._said = progress.elapsed
            self._unsaid = None
            self._stream.write(f"{line_of(progress)}\n")
            self._stream.flush()

    def close(self) -> None:
        """Say how it ended, if that was not said yet."""
        if self._unsaid is not None:
            self._stream.write(f"{line_of(self._unsaid)}\n")
            self._stream.flush()


class RichProgress:
    """On a terminal: a bar, a line for each node, and above them what failed.

    Raises
    ------
    ImportError
        rich is not installed.
    """

    def __init__(self, title: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._console = Console(file=stream)
        # What is printed meanwhile has to come above the bar, or the next look would wipe it out. It goes
        # there by way of this stream, so only if it would be seen there anyway: never from a file or a pipe.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            vertical_overflow="crop",
            redirect_stdout=_same_terminal(sys.stdout, stream),
            redirect_stderr=_same_terminal(sys.stderr, stream),
        )

    def update(self, progress: Progress) -> None:
        """Show it."""
        from rich.text import Text

        if not self._live.is_started:
            self._live.start()

        for line in troubles_of(progress):
            self._console.print(Text(line, style="red"), soft_wrap=True)
        self._live.update(self._draw(progress), refresh=True)

    def _draw(self, progress: Progress) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        names = (self._title, *(f"  {node.name}" for node in progress.nodes))
        grid.add_column(width=min(26, max(map(len, names))), no_wrap=True)
        grid.add_column(width=BAR)
        grid.add_column()  # wrapped where the terminal is narrow
        bar = ProgressBar(max(1, progress.total), progress.finished, width=BAR)
        done = f"{progress.finished:,d} of {progress.total:,d}"
        stands = str(progress.waiting or ", ".join((done, *others_of(progress))))
        grid.add_row(Text(self._title, style="bold"), bar, Text(stands))
        for node in progress.nodes:
            # Not the style of what is done: a node that is full is no success.
            share = ProgressBar(
                1.0, busy_share(node), width=BAR, complete_style="cyan", finished_style="cyan"
            )
            grid.add_row(Text(f"  {node.name}"), share, Text(load_of(node)))
        times = [seconds(progress.elapsed)]
        if progress.more_nodes:
            times.insert(0, f"and {progress.more_nodes:,d} more nodes")
        if left := left_of(progress):
            times.append(left)
        return Group(grid, Text("  " + ", ".join(times) + lost_of(progress)))

    def close(self) -> None:
        """Leave what is shown last as it is."""
        self._live.stop()


def _same_terminal(one: TextIO, other: TextIO) -> bool:
    try:
        return one.isatty() and os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except (AttributeError, OSError, ValueError):  # no stream, or one of Python's own
        return False


class CellOutput:
    """Where a notebook shows something that changes: below the cell that was running when this was made.

    It may be changed from any thread, and when another cell runs.
    """

    def __init__(self, html: str, text: str) -> None:
        from IPython.display import display

        self._handle = display(self._bundle(html, text), raw=True, display_id=True)

    @staticmethod
    def _bundle(html: str, text: str) -> dict[str, str]:
        return {"text/html": html, "text/plain": text}

    def show(self, html: str, text: str) -> None:
        """Show this instead."""
        if self._handle is not None:
            self._handle.update(self._bundle(html, text), raw=True)


class NotebookProgress:
    """In a notebook: a bar below the cell, each node, and the latest of what failed."""

    #: Lines of what failed that are shown.
    KEPT = 8

    def __init__(self, title: str) -> None:
        self._title = title
        self._troubles: list[str] = []
        self._output = CellOutput(f"<p>{escape(title)}</p>", title)

    def update(self, progress: Progress) -> None:
        """Show it in the same place."""
        self._troubles = [*self._troubles, *troubles_of(progress)][-self.KEPT :]
        self._output.show(
            html_of(self._title, progress, self._troubles), f"{self._title}: {line_of(progress)}"
        )

    def close(self) -> None:
        """Leave what is shown last as it is."""


def html_of(title: str, progress: Progress, troubles: list[str]) -> str:
    """The bar, the nodes, and what failed; in the colours of the page."""
    head = f"<b>{escape(title)}</b> " if title else ""
    parts = [
        str(progress.waiting or f"{progress.finished:,d} of {progress.total:,d} finished"),
        *_retries(progress),
        seconds(progress.elapsed),
    ]
    if left := left_of(progress):
        parts.append(left)
    stand = states(progress.counts, progress.total)
    shown = f"<p>{head}{escape(', '.join(parts) + lost_of(progress))}<br>{stand}</p>"
    nodes = "".join(
        f"<tr><td style='text-align:left'>{escape(name_text(node.name))}</td>"
        f"<td style='text-align:left'>{bar([(busy_share(node), BUSY)], '8em')}</td>"
        f"<td style='text-align:left'>{escape(load_of(node))}</td></tr>"
        for node in progress.nodes
    )
    if progress.more_nodes:
        nodes += f"<tr><td colspan='3'>and {progress.more_nodes:,d} more nodes</td></tr>"
    if nodes:
        shown += f"<table style='color:inherit'><tbody>{nodes}</tbody></table>"
    return shown + "".join(f"<div>&#10007; {escape(line)}</div>" for line in troubles)
