"""One run on the dashboard page: its functions by code and state, and a timeline of its attempts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypedDict

from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import (
    Archive,
    ArchivedFunctions,
    declared_costs,
    functions_with_failures,
)
from handoff_dask._adapter.code_counts import code_text, count_codes, sample_step
from handoff_dask._adapter.texts import ID, id_text, truncated
from handoff_dask._adapter.usage_by_code import UsageByCode, UsageView
from handoff_dask._model.records import Attempt
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._scheduling.functions import NAMES, FunctionState, State
from handoff_dask._scheduling.runs import RunStatus

#: Maximum numbers of attempts, of codes, and of resources in the cost of an attempt.
BARS, CODES, RESOURCES = 600, 12, 12


class CodeView(TypedDict):
    """The functions of a run that have the same code: state → number of functions in it.

    ``used`` is what their attempts asked for and used of each resource that was measured.
    """

    code: str
    counts: dict[str, int]
    used: list[UsageView]


class BarView(TypedDict):
    """An attempt. ``start`` and ``stop`` are in seconds since its run was submitted.

    ``cost`` is what it has booked. The other fields are those of :class:`Attempt`: what it used.
    """

    function: str
    code: str
    node: str
    start: float
    stop: float
    outcome: str
    cost: dict[str, float]
    cpu_seconds: float | None
    peak_memory: float | None
    peak_exact: bool


class RunDetails(TypedDict):
    """A run: the requested one, or else the newest active run, or else the newest run.

    The timeline shows one function in ``every``, and besides these the functions with the last failed or lost
    attempts. Codes are sorted by the number of their functions, the largest first, and ``codes_there`` counts
    those that are left out too. If ``sampled``, the counts were extrapolated from a sample. If
    ``usage_partial``, some attempts are not among what the codes used yet: the next refreshes add them.
    """

    run: str
    dag: str
    status: str
    elapsed: float
    codes: list[CodeView]
    codes_there: int
    sampled: bool
    usage_partial: bool
    every: int
    bars: list[BarView]


class _Known(NamedTuple):
    """A run whose functions are known."""

    info: RunInfo
    ids: Sequence[Any]
    usage: UsageByCode
    with_failures: Iterable[int]
    active: ActiveRun | None
    archived: ArchivedFunctions | None


def run_details(
    active: Mapping[str, ActiveRun], archive: Archive, run_id: str | None, now: float
) -> RunDetails | None:
    """Return the details of a run; None if it is unknown, or its functions are.

    Parameters
    ----------
    active : mapping of str to ActiveRun
        Run id → the plugin's run.
    archive : Archive
    run_id : str, optional
        The run, by default the newest active one, or else the newest.
    now : float
        Seconds since the epoch.
    """
    known = _find(active, archive, run_id, now)
    if known is None:
        return None
    functions = len(known.ids)
    counts = _counts(known)
    largest = sorted(counts, key=lambda code: (-counts[code].total(), code))
    every = max(1, math.ceil(functions / BARS))
    numbers = sorted({*range(0, functions, every), *known.with_failures})
    bars = [bar for n in numbers for bar in _bars(known, n, now)]
    usage = _updated_usage(known)
    return {
        "run": known.info.id,
        "dag": id_text(known.info.dag_id),
        "status": known.info.status,
        "elapsed": known.info.elapsed,
        "codes": [
            {
                "code": code,
                "counts": {NAMES[state]: n for state, n in counts[code].items()},
                "used": usage.of(code),
            }
            for code in largest[:CODES]
        ],
        "codes_there": len(counts),
        "sampled": sample_step(functions) > 1,
        "usage_partial": usage.partial,
        "every": every,
        "bars": _sample_bars(bars),
    }


def _find(active: Mapping[str, ActiveRun], archive: Archive, run_id: str | None, now: float) -> _Known | None:
    if run_id is not None:
        found, kept = active.get(run_id), archive.find(run_id)
    else:
        found = max(
            active.values(), key=lambda a: (a.run.status is RunStatus.RUNNING, a.run.sequence), default=None
        )
        kept = max(archive.runs, key=lambda kept: kept.sequence, default=None)
        if (
            found is not None
            and kept is not None
            and found.run.status is not RunStatus.RUNNING
            and found.run.sequence < kept.sequence
        ):
            found = None
    if found is not None:
        spec = found.run.spec
        if found.usage is None:
            codes = [code_text(kind.code) for kind in spec.kinds]
            found.usage = UsageByCode(codes, declared_costs(found.run), spec.kind_of)
        failures = functions_with_failures(found.run)
        return _Known(found.info(now), spec.ids, found.usage, failures, found, None)
    if kept is not None and (f := kept.functions) is not None:
        if f.usage is None:
            f.usage = UsageByCode([*map(code_text, f.codes)], f.costs, f.kind_of)
        return _Known(kept.info, f.ids, f.usage, f.with_failures, None, f)
    return None


def _counts(known: _Known) -> dict[str, Counter[State]]:
    if known.active is not None:
        return known.active.code_counts.at(known.active.run)
    assert known.archived is not None
    if known.archived.code_counts is None:
        step = sample_step(len(known.ids))
        states = known.archived.states(step)
        known.archived.code_counts = count_codes(known.usage.codes, known.usage.kind_of[::step], states, step)
    return known.archived.code_counts


def _updated_usage(known: _Known) -> UsageByCode:
    """Return what the run's attempts used, up to date as far as the time allows."""
    if known.active is not None:
        run = known.active.run
        known.usage.update(run.changes, lambda number: run.functions[number].attempts)
    elif known.usage.partial:
        assert known.archived is not None
        known.usage.update(known.archived.changes, known.archived.attempts_of)
    return known.usage


def _bars(known: _Known, n: int, now: float) -> list[BarView]:
    """Return the last few attempts of a function that ended and whose start is known, and its current one."""
    kind = known.usage.kind_of[n]
    submitted = known.info.submitted
    f: FunctionState | None = None
    if known.active is not None:
        f = known.active.run.functions[n]
        attempts: Sequence[Attempt] = f.attempts
    else:
        assert known.archived is not None
        attempts = known.archived.attempts_of(n)
    shown = [a for a in attempts[-3:] if a.started is not None and a.stopped is not None]
    if f is not None and f.state is State.RUNNING and f.node is not None and f.allocated:
        start, stop = max(submitted, f.placed), max(submitted, now)
        shown.append(Attempt(len(attempts) + 1, f.node.name, None, start, stop, cost=f.asked))
    return [
        {
            "function": id_text(known.ids[n]),
            "code": known.usage.codes[kind],
            "node": id_text(a.node),
            "start": round((a.started or 0.0) - submitted, 4),
            "stop": round((a.stopped or 0.0) - submitted, 4),
            "outcome": a.outcome,
            "cost": _bounded(known.usage.costs[kind] if a.cost is None else a.cost),
            "cpu_seconds": None if a.cpu_seconds is None else round(a.cpu_seconds, 5),
            "peak_memory": None if a.peak_memory is None else round(a.peak_memory, 2),
            "peak_exact": a.peak_exact,
        }
        for a in shown
    ]


def _bounded(cost: Mapping[str, float]) -> dict[str, float]:
    return {truncated(name, ID): amount for name, amount in islice(cost.items(), RESOURCES)}


def _sample_bars(bars: list[BarView]) -> list[BarView]:
    """Return at most :data:`BARS` bars from all over the run, omitting successful attempts first."""
    if len(bars) <= BARS:
        return bars
    good = [n for n, bar in enumerate(bars) if bar["outcome"] in ("finished", "running")]
    bad = sorted(set(range(len(bars))).difference(good))
    bad = _sample_evenly(bad, max(BARS // 2, BARS - len(good)))
    return [bars[n] for n in sorted((*bad, *_sample_evenly(good, BARS - len(bad))))]


def _sample_evenly(numbers: list[int], most: int) -> list[int]:
    """Return at most ``most`` of the numbers, evenly spaced."""
    if len(numbers) <= most:
        return numbers
    return [numbers[i * len(numbers) // most] for i in range(most)]
