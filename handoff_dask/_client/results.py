"""A run's results, fetched lazily."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distributed import Future

from handoff_dask._client.gather import gather
from handoff_dask._client.result import not_kept
from handoff_dask._error_texts import count

if TYPE_CHECKING:
    from handoff_dask._client.run import Run


class Results(Mapping[Hashable, Any]):
    """Function id → value, for finished functions. Values are fetched from the cluster on access."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def fetch(self) -> None:
        """Fetch and keep all existing results, so that they survive the closing of the client."""
        self._run._fetched_results = await gather(self._run, self._finished())

    def _finished(self) -> dict[Hashable, Future]:
        return {id: future for id, future in self._run.futures.items() if future.status == "finished"}

    def __getitem__(self, id: Hashable) -> Any:
        if id in self._run._fetched_results:
            return self._run._fetched_results[id]
        if id not in self._run.futures:
            dag = self._run.dag
            raise KeyError(not_kept(id) if id in dag else dag._no_function(id))
        future = self._run.futures[id]
        if future.status != "finished":
            why = f", because {self._run._unreachable_reason}" if self._run._unreachable_reason else ""
            raise KeyError(f"function {id!r} has no result: its future is {future.status}{why}")
        return self._run._client.sync(self._fetch_one, id, future)

    async def _fetch_one(self, id: Hashable, future: Future) -> Any:
        return (await gather(self._run, {id: future}))[id]

    def gather(self) -> Any:
        """Fetch all existing results at once: a dict, or with an asynchronous client an awaitable of one."""
        return self._run._client.sync(gather, self._run, self._finished())

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._run._fetched_results or self._finished())

    def __len__(self) -> int:
        return len(self._run._fetched_results or self._finished())

    def __contains__(self, id: object) -> bool:
        if id in self._run._fetched_results:
            return True
        future = self._run.futures.get(id)
        return future is not None and future.status == "finished"

    def __repr__(self) -> str:
        total = count(len(self._run.futures), "function")
        return f"<results of {len(self)} of {total} of run {self._run.id}>"
