"""Summaries of a run's functions: fetched in pieces at first, then only changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from distributed.protocol import pickle

from handoff_dask._model.records import Summary


class Summaries:
    """The client's copy of the scheduler's summaries of a run.

    Attributes
    ----------
    by_number : list of Summary
        Indexed by function number; empty before the first :meth:`update`.
    errors : dict
        Function number → exception of its final failure, as packed by Dask.
    nodes : mapping or None
        Node name → capacity, as of the last update.
    """

    def __init__(self) -> None:
        self.by_number: list[Summary] = []
        self.errors: dict[int, Any] = {}
        self.nodes: Mapping[Any, Mapping[str, float]] | None = None
        self._cursor: Any = None
        self._updating = asyncio.Lock()

    async def update(self, ask: Callable[..., Awaitable[Any]]) -> None:
        """Fetch changes. If the scheduler no longer knows the run, the summaries stay as they are.

        Parameters
        ----------
        ask : callable
            Asks the scheduler: ``await ask("summaries", cursor=cursor)``.
        """
        async with self._updating:
            while (answer := await ask("summaries", cursor=self._cursor)) is not None:
                numbers, summaries = pickle.loads(answer["piece"])
                for number, summary in zip(numbers, summaries, strict=True):
                    if number < len(self.by_number):
                        self.by_number[number] = summary
                    else:  # the first update delivers them in order
                        self.by_number.append(summary)
                self.errors.update(zip(answer["failed"], answer["errors"], strict=True))
                self._cursor = answer["cursor"]
                if not answer["more"]:
                    self.nodes = answer["nodes"]
                    return
