"""What notebooks show. Plain HTML that takes its colours from the page, dark or light.

Each is made from what is in this process: nothing is asked of a cluster. None raises, and none is long.
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
from handoff_dask._display.markup import SHOWN, Markup, meter, states, table
from handoff_dask._display.progress import html_of
from handoff_dask._display.text import (
    amounts_text,
    cut,
    name_text,
    size_text,
    value_text,
)
from handoff_dask._display.words import seconds
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, code_name
from handoff_dask._model.resources import THREADS
from handoff_dask.exceptions import InvalidDAGError

if TYPE_CHECKING:
    from handoff_dask._client.result import Result
    from handoff_dask._client.run import Run
    from handoff_dask._client.simulate import Schedule
    from handoff_dask._model.records import FunctionRecord

#: Columns of resources that are shown, and problems.
RESOURCES, PROBLEMS = 10, 10

T = TypeVar("T")


def never_raises(show: Callable[[T], str]) -> Callable[[T], str]:
    """What cannot be shown as it should is shown as its text: a repr is no place for errors."""

    @wraps(show)
    def safe(shown: T) -> str:
        try:
            return show(shown)
        except Exception as error:
            return (
                f"<p>{escape(value_text(shown))}</p>"
                f"<p>(more cannot be shown: {escape(cut(f'{type(error).__name__}: {error}', 200))})</p>"
            )

    return safe


# ---------------------------------------------------------------------- before it runs


@never_raises
def dag(dag: DAG) -> str:
    """A DAG: its size, what is wrong with it, a picture, what it asks for, its functions."""
    counts = [_count(len(dag), "function")]
    needs = sum(len(f.dependencies) for f in dag.functions.values())
    if needs:
        counts.append(_count(needs, "dependency", "dependencies"))
    inline = sum(f.type == "inline" for f in dag.functions.values())
    if inline:
        counts.append(f"{inline:,d} of them inline")
    parts = [f"<p><b>DAG {escape(value_text(dag.id))}</b>: {', '.join(counts)}</p>", _problems(dag)]
    try:
        parts.append(svg.drawing(dag))
    except Exception:  # a cycle, which is among the problems; or ids that cannot be drawn
        parts.append("<p>not drawn</p>")
    parts.append(_costs(dag))
    rows = (
        (
            id,
            code_name(f.code) if f.code is not None else "",
            cut(", ".join(name_text(d) for d in f.dependencies[:8]), 80),
            cost_text(f.cost) if f.cost else "",
            _place(f),
        )
        for id, f in dag.functions.items()
    )
    head = ("id", "code", "args", "cost", "node")
    functions = table(head, rows, len(dag))
    parts.append(f"<details><summary>functions</summary>{functions}</details>")
    return "".join(parts)


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,d} {one if n == 1 else many or one + 's'}"


def _place(f: Function) -> str:
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
    shown = "".join(f"<li>{escape(cut(problem, 300))}</li>" for problem in problems[:PROBLEMS])
    more = len(problems) - PROBLEMS
    shown += f"<li>and {more:,d} more</li>" if more > 0 else ""
    return f"<p><b>&#9888; {_count(len(problems), 'problem')}</b></p><ul>{shown}</ul>"


def _costs(dag: DAG) -> str:
    asked: dict[str, list[float]] = {}
    for f in dag.functions.values():
        for name, amount in amounts(f).items():
            asked.setdefault(name, []).append(amount)
    if not asked:
        return ""
    rows = ((name, len(n), max(n), sum(n)) for name, n in asked.items())
    return table(("resource", "functions that ask for it", "most by one", "by all"), rows, len(asked))


@never_raises
def function(f: Function) -> str:
    """A function: what was given."""
    rows: list[tuple[str, str]] = []
    for field in fields(f):
        value = getattr(f, field.name)
        if field.name == "id" or value is None or value in ((), {}) or value == field.default:
            continue
        if field.name == "code":
            text = cut(code_name(value), 80)
            module = getattr(value, "__module__", None)
            if isinstance(module, str):
                text += f" of {cut(module, 80)}"
        elif field.name == "node":
            text = _place(f)
        else:
            text = cost_text(value) if field.name == "cost" else value_text(value)
        rows.append((field.name, text))
    return f"<p><b>Function {escape(value_text(f.id))}</b></p>" + table(("field", "value"), rows, len(rows))


@never_raises
def nodes(nodes: Mapping[Any, Mapping[str, float]]) -> str:
    """Nodes and what they have."""
    totals: Counter[str] = Counter()
    for capacity in nodes.values():
        totals.update(capacity)
    names = sorted(totals, key=lambda name: ({"cpu": 0, "memory": 1, "gpu": 2}.get(name, 3), name))
    shown = names[:RESOURCES]
    rows = ((name, *(capacity.get(r, "") for r in shown)) for name, capacity in nodes.items())
    more = f"; and {len(names) - RESOURCES:,d} more resources" if len(names) > RESOURCES else ""
    total = f": {amounts_text({r: totals[r] for r in shown})} in all{more}" if nodes else ""
    units = {"memory": "memory (MB)"}
    head = ("node", *(units.get(r, name_text(r)) for r in shown))
    return f"<p><b>{_count(len(nodes), 'node')}</b>{escape(total)}</p>" + table(head, rows, len(nodes))


@never_raises
def schedule(schedule: Schedule) -> str:
    """A simulation: how long it takes, what bounds it, and how full the nodes are."""
    bound = max(schedule.bounds, key=lambda name: schedule.bounds[name], default="")
    share = schedule.makespan / schedule.lower_bound - 1 if schedule.lower_bound else 0.0
    above = f", this one is {share:.1%} above" if share >= 0.001 else ""
    run_on = Counter(schedule.allocations.values())
    utilisation = schedule.utilisation
    names = list(dict.fromkeys(name for shares in utilisation.values() for name in shares))[:RESOURCES]
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
        f" {_count(len(schedule.records), 'function')} in {seconds(schedule.makespan)};"
        f" no schedule is shorter than {seconds(schedule.lower_bound)} ({escape(bound)}){above}</p>"
        + table(("node", "functions", *(f"{r} in use" for r in names)), rows, len(utilisation))
    )


# ---------------------------------------------------------------------- while it runs, and afterwards


@never_raises
def run(run: Run) -> str:
    """A run: how it stands, as far as it is known here."""
    return run_html(head_of(run), run._last_progress)


def head_of(run: Run) -> str:
    """How a run stands, in words."""
    return (
        f"<b>Run {escape(run.id)}</b> of DAG {escape(value_text(run.dag.id))}: {escape(run._status_text)},"
        f" {len(run.results):,d} of {len(run.futures):,d} results, {seconds(run.elapsed)}"
    )


def run_html(head: str, seen: Any, troubles: Iterable[str] = ()) -> str:
    """The same, with the states of its functions and what its nodes do."""
    return f"<p>{head}</p>" + ("" if seen is None else html_of("", seen, list(troubles)))


@never_raises
def result(result: Result) -> str:
    """A result: how much ran where, and of every function for how long and its value in short."""
    records = result.records

    def row(id: Hashable, record: FunctionRecord) -> tuple[Any, ...]:
        value = value_text(result.results[id]) if id in result.results else ""
        return (id, record.node, len(record.attempts), seconds(record.duration), value)

    rows = (row(id, record) for id, record in records.items())  # made only as far as shown
    head = f"<p><b>Result of DAG {escape(value_text(result.dag_id))}</b>: {seconds(result.elapsed)}"
    counts = [_count(len(records), "function"), _count(len(result.results), "value")]
    if result.restored:
        counts.append(f"{len(result.restored):,d} from a checkpoint")
    placed = Counter(result.allocations.values())
    share = max(placed.values(), default=1)
    ran = ((node, n, meter(n / share)) for node, n in placed.most_common())
    return (
        f"{head}, {', '.join(counts)}</p>"
        + table(("function", "node", "attempts", "time", "value"), rows, len(records))
        + (table(("node", "functions", ""), ran, len(placed)) if len(placed) > 1 else "")
    )


@never_raises
def records(records: Mapping[Hashable, FunctionRecord]) -> str:
    """Records: how functions stand, and of each where and when it ran."""
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
            record.status,
            "" if record.node is None else record.node,
            len(record.attempts),
            seconds(started),
            seconds(record.duration),
            amounts_text({name: n for name, n in record.cost.items() if name != THREADS}),
            devices,
            size_text(record.nbytes),
            "" if error is None else " ".join(error.split()),
        )

    rows = [row(id, record) for (id, record), _ in zip(records.items(), range(SHOWN), strict=False)]
    head = ["function", "status", "node", "attempts", "started", "took", "cost", "devices", "size", "error"]
    # What nobody has takes no room.
    kept = [n for n in range(len(head)) if n < 6 or any(row[n] for row in rows)]
    shown = table([head[n] for n in kept], ([row[n] for n in kept] for row in rows), len(records))
    stand = f": {states(counts, len(records))}" if counts else ""
    return f"<p><b>Records of {_count(len(records), 'function')}</b>{stand}</p>{shown}"
