"""One run on the dashboard page: its functions by code and state, and a timeline of its attempts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import Archive, ArchivedFunctions, functions_with_failures
from handoff_dask._adapter.code_counts import code_text, count_codes, sample_step
from handoff_dask._adapter.texts import id_text
from handoff_dask._model.records import Attempt
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._scheduling.functions import NAMES, FunctionState, State
from handoff_dask._scheduling.runs import RunStatus

#: Maximum numbers of attempts and of codes.
BARS, CODES = 600, 12


class CodeView(TypedDict):
    """The functions of a run that have the same code: state → number of functions in it."""

    code: str
    counts: dict[str, int]


class BarView(TypedDict):
    """An attempt. ``start`` and ``stop`` are in seconds since its run was submitted."""

    function: str
    code: str
    node: str
    start: float
    stop: float
    outcome: str


class RunDetails(TypedDict):
    """A run: the requested one, or else the newest active run, or else the newest run.

    The timeline shows one function in ``every``, and besides these the functions with the last failed or lost
    attempts. Codes are sorted by the number of their functions, the largest first, and ``codes_there`` counts
    those that are left out too. If ``sampled``, the counts were extrapolated from a sample.
    """

    run: str
    dag: str
    status: str
    elapsed: float
    codes: list[CodeView]
    codes_there: int
    sampled: bool
    every: int
    bars: list[BarView]


class _Known(NamedTuple):
    """A run whose functions are known. ``codes`` are those of its kinds of functions, as text."""

    info: RunInfo
    ids: Sequence[Any]
    codes: Sequence[str]
    kind_of: Sequence[int]
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
    return {
        "run": known.info.id,
        "dag": id_text(known.info.dag_id),
        "status": known.info.status,
        "elapsed": known.info.elapsed,
        "codes": [
            {"code": code, "counts": {NAMES[state]: n for state, n in counts[code].items()}}
            for code in largest[:CODES]
        ],
        "codes_there": len(counts),
        "sampled": sample_step(functions) > 1,
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
        codes = [code_text(kind.code) for kind in spec.kinds]
        failures = functions_with_failures(found.run)
        return _Known(found.info(now), spec.ids, codes, spec.kind_of, failures, found, None)
    if kept is not None and (f := kept.functions) is not None:
        return _Known(kept.info, f.ids, [*map(code_text, f.codes)], f.kind_of, f.with_failures, None, f)
    return None


def _counts(known: _Known) -> dict[str, Counter[State]]:
    if known.active is not None:
        return known.active.code_counts.at(known.active.run)
    assert known.archived is not None
    if known.archived.code_counts is None:
        step = sample_step(len(known.ids))
        states = known.archived.states(step)
        known.archived.code_counts = count_codes(known.codes, known.kind_of[::step], states, step)
    return known.archived.code_counts


def _bars(known: _Known, n: int, now: float) -> list[BarView]:
    """Return the last few attempts of a function that ended and whose start is known, and its current one."""
    function, code = id_text(known.ids[n]), known.codes[known.kind_of[n]]
    submitted = known.info.submitted
    f: FunctionState | None = None
    if known.active is not None:
        f = known.active.run.functions[n]
        attempts: Sequence[Attempt] = f.attempts
    else:
        assert known.archived is not None
        attempts = known.archived.summaries(n, n + 1)[0].attempts
    spans = [
        (a.node, a.started - submitted, a.stopped - submitted, a.outcome)
        for a in attempts[-3:]
        if a.started is not None and a.stopped is not None
    ]
    if f is not None and f.state is State.RUNNING and f.node is not None and f.allocated:
        spans.append((f.node.name, max(0.0, f.placed - submitted), max(0.0, now - submitted), "running"))
    return [
        {
            "function": function,
            "code": code,
            "node": id_text(node),
            "start": round(start, 4),
            "stop": round(stop, 4),
            "outcome": outcome,
        }
        for node, start, stop, outcome in spans
    ]


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
