"""The result of a finished run."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handoff_dask._model.hooks import module_for
from handoff_dask._model.records import FunctionRecord
from handoff_dask._suggest import suggestion

if TYPE_CHECKING:
    from handoff_dask._display.timeline import Timeline


def not_kept(id: Hashable) -> str:
    """Return the text of the error for a function that ran, but whose result was released."""
    return (
        f"the result of function {id!r} was not kept; run the DAG with keep='all',"
        f" or with a list of functions that contains {id!r}"
    )


class Values(dict[Hashable, Any]):
    """Function id → value, as a dict whose errors say why a function has no value.

    Parameters
    ----------
    values : mapping
    dag_id : hashable
    records : mapping of id to FunctionRecord
        Of all functions of the run.
    """

    __slots__ = ("_dag_id", "_records")

    def __init__(
        self, values: Mapping[Hashable, Any], dag_id: Hashable, records: Mapping[Hashable, FunctionRecord]
    ) -> None:
        super().__init__(values)
        self._dag_id = dag_id
        self._records = records

    def __missing__(self, id: Hashable) -> Any:
        if id not in self._records:
            raise KeyError(
                f"the run of DAG {self._dag_id!r} has no function {id!r}{suggestion(id, self._records)}"
            )
        raise KeyError(not_kept(id))

    def __reduce__(self) -> tuple[Any, ...]:
        return Values, (dict(self), self._dag_id, self._records)


@dataclass(frozen=True, repr=False)
class Result:
    """Results, allocations and records of a finished run.

    Attributes
    ----------
    dag_id : hashable
        Id of the DAG that ran.
    results : dict
        Function id → value, for every function whose result was kept, in topological order.
    allocations : dict
        Function id → name of the node it ran on, for every placed function.
    records : dict
        Function id → :class:`FunctionRecord`.
    elapsed : float
        Seconds from submission to the end of the last function.
    run_id : str
        Id of the run.
    restored : tuple of ids
        Functions that did not need to run because their results were in the checkpoint directory.
    """

    dag_id: Hashable
    results: Mapping[Hashable, Any]
    allocations: Mapping[Hashable, Any]
    records: Mapping[Hashable, FunctionRecord] = field(repr=False)
    elapsed: float
    run_id: str
    restored: tuple[Hashable, ...] = ()

    if TYPE_CHECKING:
        # With an asynchronous client, ``execute`` and ``Run.result`` return an awaitable of a result, and
        # ``Run.records`` and ``Run.timeline`` awaitables of theirs. The type of a client does not tell
        # whether it is asynchronous, so type checkers are told that these classes can be awaited: completion
        # and checks then work for both kinds of clients.
        def __await__(self) -> Generator[Any, None, Result]: ...

    def __getitem__(self, id: Hashable) -> Any:
        """Return the value of a function: ``result[id]`` is short for ``result.results[id]``."""
        return self.results[id]

    def timeline(self, other: Any = None) -> Timeline:
        """Return a timeline: which function ran where and when.

        Parameters
        ----------
        other : Schedule, Run, Result, Records or Timeline, optional
            Shown below on the same time axis: for example a simulation of the same DAG, or another run.

        Returns
        -------
        Timeline
            Without critical path and node capacities if the result has been unpickled.
        """
        return module_for("timeline").timeline_of(f"run of DAG {self.dag_id!r}", self.records, other)

    def __repr__(self) -> str:
        return module_for("text").result_text(self)

    def _repr_html_(self) -> str:
        return module_for("html").result(self)
