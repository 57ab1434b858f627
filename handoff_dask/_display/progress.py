"""Progress of a run on a terminal, in a notebook or in a log."""

from __future__ import annotations

import os
import sys
from html import escape
from typing import TYPE_CHECKING, Any, TextIO

from handoff_dask._display.labels import duration_text, state_label, used_text
from handoff_dask._display.markup import bar, state_counts
from handoff_dask._display.palette import OTHERS, STATES, USED
from handoff_dask._display.remarks import overbooking
from handoff_dask._display.text import name_text
from handoff_dask._error_texts import count
from handoff_dask._model.progress import FailedAttempt, NodeLoad, Progress

if TYPE_CHECKING:
    from handoff_dask._client.progress import Display
    from handoff_dask._client.result import Result

#: Maximum seconds between two lines of a log.
LOG_INTERVAL = 60.0

#: Width of a bar in characters.
BAR_WIDTH = 20

#: Share of the remaining work with known durations below which an estimate is a lower bound.
MIN_KNOWN = 0.75


def display_of(title: str, stream: TextIO | None = None) -> Display:
    """Return the display that suits the environment: a notebook, a terminal or a log file."""
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
    """Return whether this process is a Jupyter kernel, which displays HTML."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    # Other notebook products derive their shells from this class.
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(get_ipython()).__mro__)


def progress_line(progress: Progress) -> str:
    """Return the whole progress in one line."""
    if progress.waiting is not None:
        return str(progress.waiting)
    parts = [
        f"{progress.finished:,d} of {progress.total:,d} finished",
        *_other_states(progress),
        duration_text(progress.elapsed),
    ]
    if eta := eta_text(progress.eta, progress.known):
        parts.append(eta)
    return ", ".join(parts) + _staleness(progress)


def _staleness(progress: Progress) -> str:
    """Return why the progress is no longer updated, or the empty string."""
    return "" if progress.lost is None else f"; no longer updated: {progress.lost}"


def _other_states(progress: Progress) -> list[str]:
    """Return the numbers of functions in further states, of retries and of lost attempts.

    Functions that wait for inputs are left out: they are the rest.
    """
    states = [
        f"{n:,d} {state_label(state)}"
        for state, n in progress.counts.items()
        if n and state not in ("finished", "waiting")
    ]
    return states + _retries(progress)


def _retries(progress: Progress) -> list[str]:
    """Return the numbers of retries and of lost attempts, which use no retry."""
    lost = progress.lost_total
    retried = progress.failed_total - lost - progress.counts.get("failed", 0)
    texts = [f"{retried:,d} {'retry' if retried == 1 else 'retries'}"] if retried > 0 else []
    return [*texts, f"{lost:,d} {'attempt' if lost == 1 else 'attempts'} lost"] if lost else texts


def eta_text(left: float | None, known: float) -> str:
    """Return the estimated time left, or the empty string if there is no estimate.

    Parameters
    ----------
    left : float or None
        Seconds.
    known : float
        Fraction of the remaining work whose durations are known, from 0 to 1.
    """
    if left is None:
        return ""
    # Round, so that the digits do not suggest more precision than the estimate has.
    step = 1 if left < 10 else 10 if left < 600 else 60
    text = duration_text(step * max(1, round(left / step)))
    return f"{'about' if known >= MIN_KNOWN else 'at least'} {text} left"


def failure_line(attempt: FailedAttempt) -> str:
    """Return one line about a failed or lost attempt."""
    where = f" on {attempt.node}" if attempt.node is not None else ""
    if attempt.outcome == "failed":
        outcome, next = "failed", "be retried"
    else:  # this uses no retry
        outcome, next = "was lost", "run again"
    consequence = f"will {'not ' if attempt.final else ''}{next}"
    error = " ".join((attempt.error or "").split())
    error = error if len(error) <= 160 else error[:157] + "..."
    return f"{attempt.function_id!r} {outcome}{where}, attempt {attempt.attempt}, {consequence}" + (
        f": {error}" if error else ""
    )


def failure_lines(progress: Progress) -> list[str]:
    """Return lines about the attempts that failed or were lost since the previous update."""
    lines = [failure_line(attempt) for attempt in progress.failed_attempts]
    if progress.more_failed_attempts:
        n = progress.more_failed_attempts
        lines.insert(0, f"{count(n, 'more attempt')} failed or {'was' if n == 1 else 'were'} lost")
    return lines


def load_text(node: NodeLoad) -> str:
    """Return the number of functions running on a node, and the used amount of each resource."""
    amounts = (
        f"{name} {used_text(name, node.used.get(name, 0), capacity)}"
        for name, capacity in node.capacity.items()
        if capacity
    )
    return ", ".join((f"{node.running:,d} running", *amounts))


def peak_utilisation(node: NodeLoad) -> float:
    """Return the used share, from 0 to 1, of the node's most heavily used resource."""
    shares = [node.used.get(name, 0) / capacity for name, capacity in node.capacity.items() if capacity]
    return min(1.0, max(shares, default=1.0 if node.running else 0.0))


class ProgressLine:
    """A terminal line that is overwritten; lines about failures scroll up above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def update(self, progress: Progress) -> None:
        """Overwrite the line."""
        above = "".join(f"{line}\n\x1b[K" for line in failure_lines(progress))
        self._stream.write(f"\r\x1b[K{above}{progress_line(progress)}")
        self._stream.flush()

    def close(self) -> None:
        """End the last line."""
        self._stream.write("\n")
        self._stream.flush()


class ProgressLog:
    """Log lines: one per further tenth, per change of the awaited nodes, or after :data:`LOG_INTERVAL`.

    Lines about failures are written at once.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tenth = -1
        self._awaited: str | None = None
        self._logged_at = 0.0  # in seconds of the run
        self._unlogged: Progress | None = None

    def update(self, progress: Progress) -> None:
        """Write the lines about failures, and one about the progress if it is due."""
        for line in failure_lines(progress):
            self._stream.write(f"{line}\n")
            self._stream.flush()
        self._unlogged = progress
        tenth = 10 * progress.finished // max(1, progress.total)
        awaited = None if progress.waiting is None else progress.waiting.awaited
        overdue = progress.elapsed - self._logged_at >= LOG_INTERVAL
        if awaited != self._awaited or tenth > self._tenth or overdue:
            self._tenth = max(tenth, self._tenth)
            self._awaited = awaited
            self._logged_at = progress.elapsed
            self._unlogged = None
            self._stream.write(f"{progress_line(progress)}\n")
            self._stream.flush()

    def close(self) -> None:
        """Write the last progress, unless its line has been written."""
        if self._unlogged is not None:
            self._stream.write(f"{progress_line(self._unlogged)}\n")
            self._stream.flush()


class RichProgress:
    """A terminal display with a bar, a line per node, and lines about failures above them.

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
        # Output that is printed meanwhile must go above the bar, or the next update would overwrite it. Rich
        # redirects it to this stream, which is right only if it would appear on this terminal anyway: output
        # to a file or a pipe is not redirected.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            vertical_overflow="crop",
            redirect_stdout=_same_terminal(sys.stdout, stream),
            redirect_stderr=_same_terminal(sys.stderr, stream),
        )

    def update(self, progress: Progress) -> None:
        """Redraw the display."""
        from rich.text import Text

        if not self._live.is_started:
            self._live.start()

        for line in failure_lines(progress):
            self._console.print(Text(line, style=STATES["failed"]), soft_wrap=True)
        self._live.update(self._draw(progress), refresh=True)

    def _draw(self, progress: Progress) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        names = (self._title, *(f"  {node.name}" for node in progress.nodes))
        grid.add_column(width=min(26, max(map(len, names))), no_wrap=True)
        grid.add_column(width=BAR_WIDTH)
        grid.add_column()  # wraps on a narrow terminal
        # Rich's own colour of the rest is dark: on a light terminal it would look like the filled part.
        done_style = STATES["finished"]
        bar = ProgressBar(
            max(1, progress.total),
            progress.finished,
            width=BAR_WIDTH,
            style=STATES["waiting"],
            complete_style=done_style,
            finished_style=done_style,
        )
        done = f"{progress.finished:,d} of {progress.total:,d}"
        states = str(progress.waiting or ", ".join((done, *_other_states(progress))))
        grid.add_row(Text(self._title, style="bold"), bar, Text(states))
        for node in progress.nodes:
            utilisation = ProgressBar(
                1.0,
                peak_utilisation(node),
                width=BAR_WIDTH,
                style=OTHERS,
                complete_style=USED,
                finished_style=USED,
            )
            grid.add_row(Text(f"  {node.name}"), utilisation, Text(load_text(node)))
        times = [duration_text(progress.elapsed)]
        if progress.more_nodes:
            times.insert(0, f"and {count(progress.more_nodes, 'more node')}")
        if eta := eta_text(progress.eta, progress.known):
            times.append(eta)
        return Group(grid, Text("  " + ", ".join(times) + _staleness(progress)))

    def close(self) -> None:
        """Keep the last output."""
        self._live.stop()


def _same_terminal(one: TextIO, other: TextIO) -> bool:
    try:
        return one.isatty() and os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except (AttributeError, OSError, ValueError):  # not a stream, or one without a file descriptor
        return False


class CellOutput:
    """An output below the notebook cell that was running when this object was created.

    The output can be replaced from any thread, even while another cell runs.
    """

    def __init__(self, html: str, text: str) -> None:
        from IPython.display import display

        self._handle = display(self._bundle(html, text), raw=True, display_id=True)

    @staticmethod
    def _bundle(html: str, text: str) -> dict[str, str]:
        return {"text/html": html, "text/plain": text}

    def show(self, html: str, text: str) -> None:
        """Replace the output."""
        if self._handle is not None:
            self._handle.update(self._bundle(html, text), raw=True)


class NotebookProgress:
    """A notebook display with a bar, the nodes and the latest failures."""

    #: Maximum number of failures shown.
    MAX_FAILURES = 8

    def __init__(self, title: str) -> None:
        self._title = title
        self._failures: list[str] = []
        self._output = CellOutput(f"<p>{escape(title)}</p>", title)

    def update(self, progress: Progress) -> None:
        """Replace the output."""
        self._failures = [*self._failures, *failure_lines(progress)][-self.MAX_FAILURES :]
        self._output.show(
            progress_html(self._title, progress, self._failures),
            f"{self._title}: {progress_line(progress)}",
        )

    def close(self) -> None:
        """Keep the last output."""


def show_remarks(result: Result) -> None:
    """Write remarks about a result below its progress. In a notebook, the result shows them itself."""
    remark = overbooking(result.records)
    if remark and not in_notebook():
        sys.stderr.write(f"{remark}\n")


def progress_html(title: str, progress: Progress, failures: list[str]) -> str:
    """Return the progress of a run, its nodes and lines about failures as HTML in the colours of the page."""
    head = f"<b>{escape(title)}</b> " if title else ""
    parts = [
        str(progress.waiting or f"{progress.finished:,d} of {progress.total:,d} finished"),
        *_retries(progress),
        duration_text(progress.elapsed),
    ]
    if eta := eta_text(progress.eta, progress.known):
        parts.append(eta)
    states = state_counts(progress.counts, progress.total)
    html = f"<p>{head}{escape(', '.join(parts) + _staleness(progress))}<br>{states}</p>"
    nodes = "".join(
        f"<tr><td style='text-align:left'>{escape(name_text(node.name))}</td>"
        f"<td style='text-align:left'>{bar([(peak_utilisation(node), f'background:{USED}')], '8em')}</td>"
        f"<td style='text-align:left'>{escape(load_text(node))}</td></tr>"
        for node in progress.nodes
    )
    if progress.more_nodes:
        nodes += f"<tr><td colspan='3'>and {count(progress.more_nodes, 'more node')}</td></tr>"
    if nodes:
        html += f"<table style='color:inherit'><tbody>{nodes}</tbody></table>"
    return html + "".join(f"<div>&#10007; {escape(line)}</div>" for line in failures)
