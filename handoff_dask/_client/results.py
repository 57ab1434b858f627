"""Results of a run, fetched when they are looked at."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distributed import Future

from handoff_dask._client.gather import gather

if TYPE_CHECKING:
    from handoff_dask._client.run import Run


class Results(Mapping[Hashable, Any]):
    """Results of a run by function id: those that are there, fetched from the cluster when looked at."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def fetch(self) -> None:
        """Fetch what is there, to have it when the client is closed."""
        self._run._fetched_results = await gather(self._run, self._there())

    def _there(self) -> dict[Hashable, Future]:
        return {id: future for id, future in self._run.futures.items() if future.status == "finished"}

    def __getitem__(self, id: Hashable) -> Any:
        if id in self._run._fetched_results:
            return self._run._fetched_results[id]
        future = self._run.futures[id]
        if future.status != "finished":
            why = f", since {self._run._unreachable_reason}" if self._run._unreachable_reason else ""
            raise KeyError(f"function {id!r} has no result: its future is {future.status}{why}")
        return self._run._client.sync(self._one, id, future)

    async def _one(self, id: Hashable, future: Future) -> Any:
        return (await gather(self._run, {id: future}))[id]

    def gather(self) -> Any:
        """All results that are there, fetched together: a dict, or an awaitable of one."""
        return self._run._client.sync(gather, self._run, self._there())

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._run._fetched_results or self._there())

    def __len__(self) -> int:
        return len(self._run._fetched_results or self._there())

    def __contains__(self, id: object) -> bool:
        if id in self._run._fetched_results:
            return True
        future = self._run.futures.get(id)
        return future is not None and future.status == "finished"

    def __repr__(self) -> str:
        return f"<results of {len(self)} of {len(self._run.futures)} functions of run {self._run.id}>"
