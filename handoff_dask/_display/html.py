"""HTML reprs for notebooks, in plain HTML that inherits the colours of the page, dark or light.

Every repr is short, never raises, and uses only data in this process: it sends no request to the cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from handoff_dask._display import svg
from handoff_dask._display.colouring import amounts
from handoff_dask._display.groups import cost_text, pin_text
from handoff_dask._display.labels import duration_text, memory_text, state_label
from handoff_dask._display.markup import MAX_ROWS, Markup, meter, state_counts, table
from handoff_dask._display.progress import progress_html
from handoff_dask._display.remarks import overbooking
from handoff_dask._display.text import (
    amounts_text,
    name_text,
    size_text,
    truncate,
    value_text,
)
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, code_name
from handoff_dask._model.resources import THREADS
from handoff_dask.exceptions import InvalidDAGError

if TYPE_CHECKING:
    from handoff_dask._client.result import Result
    from handoff_dask._client.run import Run
    from handoff_dask._client.simulate import Schedule
    from handoff_dask._model.records import FunctionRecord

#: Maximum number of resource columns in a table.
MAX_RESOURCES = 10

#: Maximum number of problems listed for a DAG.
MAX_PROBLEMS = 10

T = TypeVar("T")


def never_raises(show: Callable[[T], str]) -> Callable[[T], str]:
    """Make a repr fall back to the value's text and the error, instead of raising."""

    @wraps(show)
    def safe(value: T) -> str:
        try:
            return show(value)
        except Exception as error:
            return (
                f"<p>{escape(value_text(value))}</p>"
                f"<p>(the full repr failed: {escape(truncate(f'{type(error).__name__}: {error}', 200))})</p>"
            )

    return safe


# ---------------------------------------------------------------------- before a run


@never_raises
def dag(dag: DAG) -> str:
    """Return a DAG's size, problems, picture, total costs and functions."""
    counts = [_count(len(dag), "function")]
    dependencies = sum(len(f.dependencies) for f in dag.functions.values())
    if dependencies:
        counts.append(_count(dependencies, "dependency", "dependencies"))
    inline = sum(f.type == "inline" for f in dag.functions.values())
    if inline:
        counts.append(_count(inline, "inline function"))
    parts = [f"<p><b>DAG {escape(value_text(dag.id))}</b>: {', '.join(counts)}</p>", _problems(dag)]
    try:
        parts.append(svg.drawing(dag))
    except Exception:  # a cycle, which the problems list, or ids that cannot be drawn
        parts.append("<p>not drawn</p>")
    parts.append(_costs(dag))
    rows = (
        (
            id,
            code_name(f.code) if f.code is not None else "",
            truncate(", ".join(name_text(d) for d in f.dependencies[:8]), 80),
            cost_text(f.cost) if f.cost else "",
            _constraint(f),
        )
        for id, f in dag.functions.items()
    )
    head = ("function", "code", "dependencies", "cost", "node")
    functions = table(head, rows, len(dag))
    parts.append(f"<details><summary>functions</summary>{functions}</details>")
    return "".join(parts)


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,d} {one if n == 1 else many or one + 's'}"


def _constraint(f: Function) -> str:
    if f.node is None:
        return "(inline)" if f.type == "inline" else ""
    return f"beside {name_text(f.node.id)}" if isinstance(f.node, Collocated) else pin_text(f.node)


def _problems(dag: DAG) -> str:
    try:
        dag.validate()
    except InvalidDAGError as error:
        problems = list(error.problems)
    else:
        return ""
    items = "".join(f"<li>{escape(truncate(problem, 300))}</li>" for problem in problems[:MAX_PROBLEMS])
    more = len(problems) - MAX_PROBLEMS
    items += f"<li>and {more:,d} more</li>" if more > 0 else ""
    return f"<p><b>&#9888; {_count(len(problems), 'problem')}</b></p><ul>{items}</ul>"


def _costs(dag: DAG) -> str:
    asked: dict[str, list[float]] = {}
    for f in dag.functions.values():
        for name, amount in amounts(f).items():
            asked.setdefault(name, []).append(amount)
    if not asked:
        return ""
    rows = ((name, len(n), max(n), sum(n)) for name, n in asked.items())
    return table(("resource", "functions", "largest cost", "total cost"), rows, len(asked))


@never_raises
def function(f: Function) -> str:
    """Return the fields of a function that were set."""
    rows: list[tuple[str, str]] = []
    for field in fields(f):
        value = getattr(f, field.name)
        if field.name == "id" or value is None or value in ((), {}) or value == field.default:
            continue
        if field.name == "code":
            text = truncate(code_name(value), 80)
            module = getattr(value, "__module__", None)
            if isinstance(module, str):
                text += f" from {truncate(module, 80)}"
        elif field.name == "node":
            text = _constraint(f)
        else:
            text = cost_text(value) if field.name == "cost" else value_text(value)
        rows.append((field.name, text))
    return f"<p><b>Function {escape(value_text(f.id))}</b></p>" + table(("field", "value"), rows, len(rows))


@never_raises
def nodes(nodes: Mapping[Any, Mapping[str, float]]) -> str:
    """Return the nodes of a cluster and their capacity, in total and each."""
    totals: Counter[str] = Counter()
    for capacity in nodes.values():
        totals.update(capacity)
    names = sorted(totals, key=lambda name: ({"cpu": 0, "memory": 1, "gpu": 2}.get(name, 3), name))
    columns = names[:MAX_RESOURCES]
    rows = ((name, *(capacity.get(r, "") for r in columns)) for name, capacity in nodes.items())
    more = f"; and {len(names) - MAX_RESOURCES:,d} more resources" if len(names) > MAX_RESOURCES else ""
    total = f": {amounts_text({r: totals[r] for r in columns})} in total{more}" if nodes else ""
    units = {"memory": "memory (MB)"}
    head = ("node", *(units.get(r, name_text(r)) for r in columns))
    return f"<p><b>{_count(len(nodes), 'node')}</b>{escape(total)}</p>" + table(head, rows, len(nodes))


@never_raises
def schedule(schedule: Schedule) -> str:
    """Return a simulation's makespan, its lower bound, and the utilisation of each node."""
    bound = max(schedule.bounds, key=lambda name: schedule.bounds[name], default="")
    share = schedule.makespan / schedule.lower_bound - 1 if schedule.lower_bound else 0.0
    above = f", exceeded by {share:.1%}" if share >= 0.001 else ""
    run_on = Counter(schedule.allocations.values())
    utilisation = schedule.utilisation
    names = list(dict.fromkeys(name for shares in utilisation.values() for name in shares))[:MAX_RESOURCES]
    rows = (
        (
            node,
            run_on.get(node, 0),
            *(Markup(f"{meter(s[r])} {s[r]:.0%}") if r in s else "" for r in names),
        )
        for node, s in utilisation.items()
    )
    return (
        f"<p><b>Schedule of DAG {escape(value_text(schedule.dag_id))}</b>:"
        f" {_count(len(schedule.records), 'function')} in {duration_text(schedule.makespan)};"
        f" lower bound {duration_text(schedule.lower_bound)} ({escape(bound)}){above}</p>"
        + table(("node", "functions", *(f"{r} used" for r in names)), rows, len(utilisation))
    )


# ---------------------------------------------------------------------- during and after a run


@never_raises
def run(run: Run) -> str:
    """Return a run's last known status and progress."""
    return run_html(run_heading(run), run._last_progress)


def run_heading(run: Run) -> str:
    """Return a run's status, number of results and elapsed time in one line of HTML."""
    return (
        f"<b>Run {escape(run.id)}</b> of DAG {escape(value_text(run.dag.id))}: {escape(run._status_text)},"
        f" {len(run.results):,d} of {_count(len(run.futures), 'result')}, {duration_text(run.elapsed)}"
    )


def run_html(heading: str, progress: Any, failures: Iterable[str] = ()) -> str:
    """Return a run's heading, followed by its progress, if known, and by lines about failures."""
    return f"<p>{heading}</p>" + ("" if progress is None else progress_html("", progress, list(failures)))


@never_raises
def result(result: Result) -> str:
    """Return each function's node, duration and shortened value, and the number of functions per node."""
    records = result.records

    def row(id: Hashable, record: FunctionRecord) -> tuple[Any, ...]:
        value = value_text(result.results[id]) if id in result.results else ""
        return (id, record.node, len(record.attempts), duration_text(record.duration), value)

    rows = (row(id, record) for id, record in records.items())  # lazy: only the displayed rows are built
    head = f"<p><b>Result of DAG {escape(value_text(result.dag_id))}</b>: {duration_text(result.elapsed)}"
    counts = [_count(len(records), "function"), _count(len(result.results), "value")]
    if result.restored:
        counts.append(f"{len(result.restored):,d} from checkpoints")
    placed = Counter(result.allocations.values())
    largest = max(placed.values(), default=1)
    ran = ((node, n, meter(n / largest)) for node, n in placed.most_common())
    return (
        f"{head}, {', '.join(counts)}</p>"
        + table(("function", "node", "attempts", "took", "value"), rows, len(records))
        + (table(("node", "functions", ""), ran, len(placed)) if len(placed) > 1 else "")
        + (f"<p>{escape(remark)}</p>" if (remark := overbooking(records)) else "")
    )


@never_raises
def records(records: Mapping[Hashable, FunctionRecord]) -> str:
    """Return the number of functions in each state, and for each function when and where it ran."""
    counts: Counter[str] = Counter()
    begin = None
    for record in records.values():
        counts[record.status] += 1
        if record.attempts and (at := record.attempts[0].queued or record.attempts[0].started) is not None:
            begin = at if begin is None else min(begin, at)

    def row(id: Hashable, record: FunctionRecord) -> tuple[Any, ...]:
        started = None if record.started is None or begin is None else record.started - begin
        devices = ", ".join(f"{name} {list(indices)}" for name, indices in record.devices.items())
        error = record.attempts[-1].error if record.attempts else None
        return (
            id,
            state_label(record.status),
            "" if record.node is None else record.node,
            len(record.attempts),
            duration_text(started),
            duration_text(record.duration),
            amounts_text({name: n for name, n in record.cost.items() if name != THREADS}),
            duration_text(record.cpu_seconds),
            memory_text(record.peak_memory, record.attempts[-1].peak_exact) if record.attempts else "",
            devices,
            size_text(record.nbytes),
            "" if error is None else " ".join(error.split()),
        )

    rows = [row(id, record) for (id, record), _ in zip(records.items(), range(MAX_ROWS), strict=False)]
    head = ["function", "status", "node", "attempts", "started", "took"]
    head += ["cost", "cpu time", "peak memory", "devices", "size", "error"]
    # The last columns are left out if they are empty.
    kept = [n for n in range(len(head)) if n < 6 or any(row[n] for row in rows)]
    body = table([head[n] for n in kept], ([row[n] for n in kept] for row in rows), len(records))
    states = f": {state_counts(counts, len(records))}" if counts else ""
    return f"<p><b>Records of {_count(len(records), 'function')}</b>{states}</p>{body}"
