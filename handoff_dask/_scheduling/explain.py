"""Explanations for users: why a function is not running."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from handoff_dask._model.labels import state_label, used_text
from handoff_dask._model.resources import THREADS, format_amounts, from_units
from handoff_dask._scheduling.custom import Custom
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.lacks import group_lines, reasons_against
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.pacing import Pacing
from handoff_dask._scheduling.runs import CONCURRENCY, ENDED, Run, RunStatus
from handoff_dask._scheduling.spec import Amounts

if TYPE_CHECKING:
    from handoff_dask._scheduling.state import SchedulingState

#: Maximum number of inputs or shortfalls to list.
_MAX_LISTED = 8


def explain_loss(f: FunctionState, allowed: int) -> str:
    """Return why Dask gave a function up whose node was just lost.

    Parameters
    ----------
    f : FunctionState
        A running function.
    allowed : int
        Number of nodes that may be lost while one function runs: Dask's setting ``allowed-failures``.
    """
    while_running = 1 + sum(a.outcome == "lost" for a in f.attempts)
    setting = f"distributed.scheduler.allowed-failures is {allowed}"
    if not (finished := sum(a.outcome == "finished" for a in f.attempts)):
        nodes = f"{while_running} node{'s' if while_running > 1 else ''}"
        return f"its node was lost: it took down {nodes} ({setting}); the nodes' logs may say why"
    were = "nodes were" if while_running > 1 else "node was"
    return (
        f"its node was lost: {while_running} {were} lost while it ran, and {finished} that held its"
        f" result after it had finished ({setting}); the nodes' logs may say why. If nodes run out of memory,"
        ' use nodes with more memory, or hold fewer results at once: set keep="sinks" or a list of ids, and'
        " fetch results one by one"
    )


def explain(state: SchedulingState, f: FunctionState, now: float) -> str:
    """Return what a function is doing or, if it is not running, what it waits for.

    Parameters
    ----------
    state : SchedulingState
    f : FunctionState
    now : float
        Seconds on the clock that all events use.

    Returns
    -------
    str
        A sentence. It is followed by a line per missing input for a function that waits for results, by a
        line for all nodes with the same reason for a function that waits for a node, and by the shortfalls of
        a pending run.
    """
    run = f.run
    name = f"function {f.id!r}"
    if run.status is RunStatus.PENDING:
        left = "" if run.deadline is None else f" (fails in {max(0.0, run.deadline - now):.3g} s)"
        lines = [f"{name} waits: its run starts once the nodes can hold all of its functions{left}"]
        return _listed(lines, [str(s) for s in run.shortfalls])
    match f.state:
        case State.WAITING:
            needs = [run.functions[n] for n in run.inputs[f.number]]
            missing = [f"{g.id!r} ({_brief(g)})" for g in needs if g.state is not State.FINISHED]
            return _listed(
                [f"{name} is waiting for inputs"], missing or ["all inputs exist; next, it waits for a node"]
            )
        case State.DELAYED:
            if f.awaits_cost:
                return f"{name} is waiting for its cost, which a node is computing"
            assert f.retry is not None
            attempts = f.kind.policy.max_retries + 1
            return (
                f"{name} will be retried in {max(0.0, f.retry.not_before - now):.3g} s:"
                f" attempt {len(f.attempts) + 1}, after {f.failures} of at most {attempts} attempts failed"
            )
        case State.READY:
            return _why_ready(state, f, now)
        case State.RUNNING:
            return f"{name} is not waiting: it is {_brief(f)}"
        case State.SKIPPED:
            return f"{name} will not run: {_failed_dependency(f)!r}, which it depends on, has failed"
        case State.CANCELLED:
            return f"{name} will not run: its run {ENDED[run.status.value]}"
        case State.FAILED:
            error = f.attempts[-1].error if f.attempts else None
            return f"{name} has failed" + (f": {error}" if error else "")
    return f"{name} has {_brief(f)}"


def _why_ready(state: SchedulingState, f: FunctionState, now: float) -> str:
    run = f.run
    since = "" if f.queued is None else f" {max(0.0, now - f.queued):.3g} s"
    lines = [f"function {f.id!r} has waited{since} for a node; it asks for {format_cost(f.cost)}"]
    if run.limits is not None and not run.limits.fits(f.limit_cost):
        lines.append(_limits(run, f.limit_cost))
    if f.group is not None and f.group.node is not None:
        lines.append(f"it is collocated with functions on node {f.group.node.name!r}")
    if isinstance(run.allocator, Custom):
        lines.append("the run's custom allocator has not chosen a node for it")
    nodes = state.placement.nodes
    queue = run.backlog.queue_of(f)
    found = (
        (node.name, reasons_against(node, queue, nodes) or (_kept_off(state, f, node, now),))
        for node in nodes.ordered
    )
    rows = group_lines(found, len(nodes.ordered)) or ("the cluster has no nodes",)
    return "\n".join(["; ".join(lines) + ":", *(f"  - {row}" for row in rows)])


def _kept_off(state: SchedulingState, f: FunctionState, node: Node, now: float) -> str:
    """Say that a function fits on a node, and what keeps it off: a claim, or a faster node."""
    claim = state.placement.claims.blocking(f, node, now)
    if claim is None or claim.function is None:
        pacing = Pacing(state.placement.nodes, state.placement.estimates.speeds)  # leaves no trace
        if pacing.applies_to(f.run) and pacing.choose(f.run.backlog.queue_of(f), node, now) is not f:
            return "the function fits, but is expected to end earlier on a faster node"
        return "the function fits"
    start = max(0.0, claim.start - now)
    when = f"in {start:.3g} s" if math.isfinite(start) else "once it fits"
    return f"the function fits, but {claim.function.id!r}, which is more urgent, claims the capacity {when}"


def format_cost(cost: Amounts) -> str:
    """Format a cost. ``threads`` is left out unless it is the only resource."""
    amounts = {r: from_units(units) for r, units in cost.items() if r != THREADS or len(cost) == 1}
    return format_amounts(amounts)


def _limits(run: Run, cost: Amounts) -> str:
    assert run.limits is not None
    parts = []
    for name, units in cost.items():
        if units > run.limits.free.get(name, 0):
            used, limit = run.limits.used[name], run.limits.capacity[name]
            text = "max_concurrency" if name == CONCURRENCY else f"limit {name!r}"
            parts.append(f"{text} ({used_text(name, from_units(used), from_units(limit))})")
    return f"the run has reached {' and '.join(parts)}"


def _brief(f: FunctionState) -> str:
    where = "" if f.node is None else f" on node {f.node.name!r}"
    if f.state is State.RUNNING:
        return f"running{where}, attempt {len(f.attempts) + 1}"
    if f.state is State.FINISHED:
        return f"finished{where}"
    return state_label(f.state.value)


def _failed_dependency(f: FunctionState) -> Any:
    """Return the id of a direct or transitive dependency that failed, None if there is none."""
    found, known = [f], {f}
    for g in found:
        for n in g.run.inputs[g.number]:
            other = g.run.functions[n]
            if other.state is State.FAILED:
                return other.id
            if other.state is State.SKIPPED and other not in known:
                known.add(other)
                found.append(other)
    return None


def _listed(lines: list[str], items: Sequence[str]) -> str:
    listed = [f"  - {item}" for item in items[:_MAX_LISTED]]
    if len(items) > _MAX_LISTED:
        listed.append(f"  - ... and {len(items) - _MAX_LISTED} more")
    return "\n".join(["; ".join(lines) + (":" if listed else ""), *listed])
