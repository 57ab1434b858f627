"""What is known of the functions of a run: fetched in pieces, and then only what has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from distributed.protocol import pickle

from handoff_dask._model.records import Summary


class Summaries:
    """A copy of the scheduler's summaries of a run.

    Attributes
    ----------
    by_number : list of Summary
        By function number; empty before the first :meth:`update`.
    errors : dict
        Function number → exception of its final failure, as Dask sends it.
    nodes : mapping or None
        Node name → capacity, of the nodes there were at the last look.
    """

    def __init__(self) -> None:
        self.by_number: list[Summary] = []
        self.errors: dict[int, Any] = {}
        self.nodes: Mapping[Any, Mapping[str, float]] | None = None
        self._cursor: Any = None
        self._updating = asyncio.Lock()

    async def update(self, ask: Callable[..., Awaitable[Any]]) -> None:
        """Fetch what has changed; what was fetched before stays when the scheduler knows nothing of the run.

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
                    else:  # the first time, in order
                        self.by_number.append(summary)
                self.errors.update(zip(answer["failed"], answer["errors"], strict=True))
                self._cursor = answer["cursor"]
                if not answer["more"]:
                    self.nodes = answer["nodes"]
                    return
