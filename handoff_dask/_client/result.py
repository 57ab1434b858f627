"""What a finished run gives back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask._model.records import FunctionRecord


@dataclass(frozen=True)
class Result:
    """Results, allocations and records of a finished run.

    Attributes
    ----------
    dag_id : hashable
        Id of the DAG.
    results : dict
        Function id → value, for every function whose result was kept, in topological order.
    allocations : dict
        Function id → name of the node it ran on, for every function that was placed.
    records : dict
        Function id → :class:`FunctionRecord`.
    elapsed : float
        Seconds from submitting to the end of the last function.
    run_id : str
        Id of the run.
    restored : tuple of ids
        Functions that did not have to run since their results were in the checkpoint directory.
    """

    dag_id: Hashable
    results: Mapping[Hashable, Any]
    allocations: Mapping[Hashable, Any]
    records: Mapping[Hashable, FunctionRecord] = field(repr=False)
    elapsed: float
    run_id: str
    restored: tuple[Hashable, ...] = ()

    def __getitem__(self, id: Hashable) -> Any:
        """Value of a function: ``result[id]`` for ``result.results[id]``."""
        return self.results[id]

    def _repr_html_(self) -> str:
        from handoff_dask._display import html

        return html.result(self)
