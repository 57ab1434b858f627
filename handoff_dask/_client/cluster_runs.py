"""The runs that a cluster knows of, whoever submitted them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from distributed import Client
from distributed.protocol import pickle

from handoff_dask._adapter._dask.client import request
from handoff_dask._client.session import ask
from handoff_dask._model.records import Records, Summary
from handoff_dask._model.runinfo import RunInfo, tell_apart
from handoff_dask.exceptions import HandoffError, RunNotFoundError


def runs(client: Any = None) -> Any:
    """The runs on a cluster and those that were there, whichever client submitted them.

    Of runs that have ended and that nobody holds a handle of any more, the scheduler remembers the last
    ones: as many as ``handoff.recent-runs`` and ``handoff.recent-functions`` allow.

    Parameters
    ----------
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Returns
    -------
    list of RunInfo
        The one submitted last comes first. With an asynchronous client an awaitable of it.

    Raises
    ------
    ClusterNotReadyError, TypeError
        As :func:`handoff_dask.submit`.
    """
    return ask(client, _runs)


async def _runs(client: Client) -> list[RunInfo]:
    found: list[RunInfo] = pickle.loads(await request(client, "handoff_runs"))
    return found


def run_records(run_id: str, client: Any = None) -> Any:
    """The records of a run that :func:`runs` lists, whichever client submitted it.

    Parameters
    ----------
    run_id : str
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Returns
    -------
    Records
        As ``Result.records``, but for ids of functions that are not made of strings, numbers, None and
        tuples of these: the scheduler knows those by their ``repr`` only. With an asynchronous client an
        awaitable of it.

    Raises
    ------
    RunNotFoundError
        No such run is known there, or not any more; the error has the ids there are.
    HandoffError
        The run has more functions than the scheduler remembers (``handoff.recent-functions``).
    ClusterNotReadyError, TypeError
        As :func:`handoff_dask.submit`.
    """
    if not isinstance(run_id, str):
        raise TypeError(f"run_id must be the id of a run, not {run_id!r}")
    return ask(client, _run_records, run_id)


async def _run_records(client: Client, run_id: str) -> Records:
    answer = await request(client, "handoff_records", run_id=run_id)
    if "known" in answer:
        raise RunNotFoundError(run_id, answer["known"])
    if "most" in answer:
        raise HandoffError(
            f"the records of run {run_id} are gone: it has more functions than the scheduler remembers"
            f" of runs that have ended (handoff.recent-functions: {answer['most']:,d})"
        )
    asked: list[Mapping[str, float]] = pickle.loads(answer["asked"])
    ids: list[Hashable] = []
    found: list[tuple[Summary, Mapping[str, float]]] = []
    for piece in answer["pieces"]:
        some, kinds, summaries = pickle.loads(piece)
        ids.extend(some)
        found.extend((summary, asked[kind]) for summary, kind in zip(summaries, kinds, strict=True))
    known = dict(zip(tell_apart(ids), found, strict=True))
    return Records(known, lambda id: known[id][0], lambda id: known[id][1])
