"""Runs that a cluster's scheduler knows, whichever client submitted them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from distributed import Client
from distributed.protocol import pickle

from handoff_dask._adapter._dask.client import request
from handoff_dask._client.session import ask
from handoff_dask._model.records import Records, Summary
from handoff_dask._model.runinfo import RunInfo, make_unique
from handoff_dask.exceptions import HandoffError, RunNotFoundError


def runs(client: Any = None) -> Any:
    """List the current and recent runs on a cluster, whichever client submitted them.

    The scheduler remembers ended runs even after the last client handle to them is gone. It keeps the most
    recent of these, up to ``handoff.recent-runs`` runs and ``handoff.recent-functions`` functions in total.

    Parameters
    ----------
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Returns
    -------
    list of RunInfo
        Most recently submitted first. With an asynchronous client, an awaitable of it.

    Raises
    ------
    ClusterNotReadyError, TypeError
        As for :func:`handoff_dask.submit`.
    """
    return ask(client, _runs)


async def _runs(client: Client) -> list[RunInfo]:
    found: list[RunInfo] = pickle.loads(await request(client, "handoff_runs"))
    return found


def run_records(run_id: str, client: Any = None) -> Any:
    """Return the records of a run that :func:`runs` lists, whichever client submitted it.

    Parameters
    ----------
    run_id : str
        Id of the run.
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Returns
    -------
    Records
        As ``Result.records``. Function ids that do not consist of strings, numbers, None and tuples of these
        are replaced by their ``repr``, since the scheduler does not have the ids themselves. With an
        asynchronous client, an awaitable of it.

    Raises
    ------
    RunNotFoundError
        The scheduler does not know the run, or has forgotten it; the error lists the known ids.
    HandoffError
        The run has more functions than the scheduler remembers (``handoff.recent-functions``).
    ClusterNotReadyError, TypeError
        As for :func:`handoff_dask.submit`.
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
            f"the records of run {run_id} were discarded: it has more functions than the scheduler remembers"
            f" of ended runs (handoff.recent-functions: {answer['most']:,d})"
        )
    asked: list[Mapping[str, float]] = pickle.loads(answer["asked"])
    ids: list[Hashable] = []
    found: list[tuple[Summary, Mapping[str, float]]] = []
    for piece in answer["pieces"]:
        part, kinds, summaries = pickle.loads(piece)
        ids.extend(part)
        found.extend((summary, asked[kind]) for summary, kind in zip(summaries, kinds, strict=True))
    known = dict(zip(make_unique(ids), found, strict=True))
    return Records(known, lambda id: known[id][0], lambda id: known[id][1])
