"""Writing runs to a history, and reading predicted durations from it for the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distributed.protocol import pickle

from handoff_dask._adapter.checkpoint import loads_only
from handoff_dask._adapter.compile import Compiled
from handoff_dask._client.history import History, HistoryEntry
from handoff_dask._model.code_keys import code_keys
from handoff_dask._model.dag import DAG
from handoff_dask._model.fingerprint import FingerprintError, fingerprints
from handoff_dask._model.records import Summary
from handoff_dask._model.runinfo import INTERRUPTED, RunInfo

if TYPE_CHECKING:
    from handoff_dask._client.local_run import LocalRun
    from handoff_dask._client.run_lifecycle import RunLifecycle


def check_history(path: str) -> None:
    """Check that a history is writable. Create it if it does not exist.

    Raises
    ------
    HistoryError
        It cannot be read or written.
    """
    with History(path) as history:
        history._check_writable()


def with_estimates(compiled: Compiled, dag: DAG, path: str) -> Compiled:
    """Return the run with what the history at this path knows of its functions, their code and the nodes.

    A function is known if it has run with the same id, code, arguments and dependencies.

    Creates the history if it does not exist. Blocks while another process writes to it, so do not call this
    on an event loop.

    Raises
    ------
    HistoryError
        It cannot be read or written.
    """
    with History(path) as history:
        history._check_writable()
        spec = compiled.spec
        known = compiled.fingerprints or dag_fingerprints(dag)
        found = history._estimates({kind.code for kind in spec.kinds}, known.values())
    codes = [spec.kinds[kind].code for kind in spec.kind_of]
    own = [
        None if loads_only(code) else found.functions.get(known.get(id, ""))
        for id, code in zip(compiled.ids, codes, strict=True)
    ]
    spec = replace(spec, hints=found.hints, paces=found.paces, known=own if any(own) else ())
    return replace(compiled, spec=spec, fingerprints=known)


def dag_fingerprints(dag: DAG) -> dict[Hashable, str]:
    """Return function id → fingerprint; empty if a function cannot be fingerprinted."""
    try:
        return fingerprints(dag.functions, dag._topological_order(), pickle.dumps)
    except FingerprintError:
        return {}


async def record_run(run: RunLifecycle, path: str) -> None:
    """Write a cluster run that has ended to the history at this path."""
    compiled, spec = run._compiled, run._compiled.spec
    report: dict[str, Any] = {}
    with contextlib.suppress(OSError):  # the connection is gone
        report = await run._fetch_report()
        await run._fetch_summaries()
    summaries: Sequence[Summary] = run._summaries.by_number
    if len(summaries) < len(compiled.ids):  # the scheduler no longer knows the run
        summaries = [Summary("cancelled", ())] * len(compiled.ids)
    why = report.get("error") or run._lost_reason or run._cancel_reason
    if why is None and run._error is not None:
        why = str(run._error)
    info = RunInfo(
        id=run.id,
        dag_id=run.dag.id,
        status=run._status,
        client=run._client.id,
        submitted=run._submitted_at,
        ended=run._ended_at,
        elapsed=run._elapsed,
        counts=Counter(summary.status for summary in summaries),
        priority=spec.priority,
        error=why,
    )
    kinds = [(kind.code, dict(kind.asked)) for kind in spec.kinds]
    restored, known = set(run.restored), compiled.fingerprints
    entries = [
        HistoryEntry(id, kinds[kind][0], summary, kinds[kind][1], id in restored, known.get(id))
        for id, kind, summary in zip(compiled.ids, spec.kind_of, summaries, strict=True)
    ]
    try:
        error = await asyncio.to_thread(_write, path, info, entries)
    except RuntimeError:  # the client is closing, and its event loop no longer starts threads
        error = _write(path, info, entries)
    _warn(info, error)


def record_local(run: LocalRun, path: str, interrupted: bool) -> None:
    """Write a local run that has ended to the history at this path."""
    records = run.records
    info = RunInfo(
        id=run.id,
        dag_id=run.dag.id,
        status="cancelled" if interrupted else run.status,
        client=None,
        submitted=run._submitted_at,
        ended=run._submitted_at + run.elapsed,
        elapsed=run.elapsed,
        counts=Counter(record.status for record in records.values()),
        error=INTERRUPTED if interrupted else None if run._error is None else str(run._error),
    )
    restored, known = set(run.restored), dag_fingerprints(run.dag)
    names = code_keys(run.dag.functions)
    entries = [
        HistoryEntry(
            id, names[id], Summary(r.status, r.attempts, r.nbytes), r.cost, id in restored, known.get(id)
        )
        for id, r in records.items()
    ]
    _warn(info, _write(path, info, entries))


def _write(path: str, info: RunInfo, entries: Sequence[HistoryEntry]) -> Exception | None:
    """Write a run. Return the error, if any, instead of raising it: it must not fail the run."""
    try:
        with History(path) as history:
            history._write(info, entries)
    except Exception as error:
        return error
    return None


def _warn(info: RunInfo, error: Exception | None) -> None:
    if error is not None:
        warnings.warn(
            f"run {info.id} of DAG {info.dag_id!r} ({info.status}) could not be written to its history:"
            f" {error}",
            RuntimeWarning,
            stacklevel=3,
        )
