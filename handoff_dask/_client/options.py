"""Options of a run, validated before anything else happens."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from handoff_dask._client.history import History, absolute_path
from handoff_dask._client.resume import CheckpointLike, Selection, check_checkpoint
from handoff_dask._model.allocator import Allocator
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import ISOLATION, Isolation, declared_cost
from handoff_dask._model.resources import parse_amounts, to_units
from handoff_dask._model.retry import RetryPolicy, check_max_retries
from handoff_dask._scheduling.allocators import ALLOCATORS
from handoff_dask._scheduling.runs import CONCURRENCY
from handoff_dask._suggest import suggestion
from handoff_dask.exceptions import InvalidDAGError

logger = logging.getLogger("handoff_dask")

#: Values of ``allocation_strategy`` other than the names of built-in allocators.
AllocatorLike = Allocator | Callable[[Any, Any], Mapping[Hashable, Any]]

#: Values of ``history``.
HistoryLike = str | os.PathLike[str] | History

DEFAULT_MAX_RETRIES = 3
DEFAULT_STRATEGY = "best_fit"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Validated options of :func:`handoff_dask.execute` and :func:`handoff_dask.submit`, documented there.

    Raises
    ------
    TypeError, ValueError
        An option has the wrong type or an invalid value; the message names the option.
    """

    max_retries: int = DEFAULT_MAX_RETRIES
    retry: RetryPolicy | None = None
    max_concurrency: int | None = None
    limits: Mapping[str, Any] | None = None
    allocation_strategy: str | AllocatorLike = DEFAULT_STRATEGY
    keep: str | Collection[Hashable] = "all"
    fail_fast: bool = True
    priority: float = 0
    wait_for_nodes: float = 0
    history: HistoryLike | None = None
    checkpoint: CheckpointLike | None = None
    checkpoint_of: Selection | None = None
    isolation: Isolation = "thread"

    def __post_init__(self) -> None:
        check_max_retries(self.max_retries, "max_retries")
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {self.retry!r}; a number is max_retries=")
        n = self.max_concurrency
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise ValueError(f"max_concurrency must be a whole number of at least 1, not {n!r}")
        if self.limits is not None:
            if not isinstance(self.limits, Mapping):
                raise TypeError(f"limits must be a mapping of names to amounts, not {self.limits!r}")
            try:
                parse_amounts(self.limits)
            except ValueError as error:
                raise ValueError(f"limits: {error}") from None
            if CONCURRENCY in self.limits:
                raise ValueError(
                    f"a limit cannot be named {CONCURRENCY!r}: use the option {CONCURRENCY}= instead"
                )
        strategy = self.allocation_strategy
        known = ", ".join(repr(s) for s in ALLOCATORS)
        if isinstance(strategy, str) and strategy not in ALLOCATORS:
            raise ValueError(
                f"allocation_strategy must be one of {known} or an Allocator,"
                f" not {strategy!r}{suggestion(strategy, ALLOCATORS)}"
            )
        if isinstance(strategy, type) or not (isinstance(strategy, (str, Allocator)) or callable(strategy)):
            raise TypeError(f"allocation_strategy must be one of {known} or an Allocator, not {strategy!r}")
        if isinstance(self.keep, str) and self.keep not in ("all", "sinks"):
            hint = suggestion(self.keep, ("all", "sinks"))
            raise ValueError(
                f'keep must be "all", "sinks" or a list of function ids, not {self.keep!r}{hint}'
            )
        if not isinstance(self.keep, (str, Collection)):
            raise TypeError(f'keep must be "all", "sinks" or a list of function ids, not {self.keep!r}')
        if not isinstance(self.fail_fast, bool):
            raise TypeError(f"fail_fast must be True or False, not {self.fail_fast!r}")
        if (
            isinstance(self.priority, bool)
            or not isinstance(self.priority, (int, float))
            or math.isnan(self.priority)
        ):
            raise TypeError(f"priority must be a number, not {self.priority!r}")
        check_seconds("wait_for_nodes", self.wait_for_nodes)
        if self.isolation not in ISOLATION:
            hint = suggestion(self.isolation, ISOLATION)
            raise ValueError(f'isolation must be "thread" or "process", not {self.isolation!r}{hint}')
        if self.history is not None and not isinstance(self.history, (str, os.PathLike, History)):
            raise TypeError(f"history must be a path or a History, not {self.history!r}")
        _ = self.history_path  # raises if the path is bytes
        check_checkpoint(self.checkpoint, self.checkpoint_of)

    @property
    def policy(self) -> RetryPolicy:
        """The retry policy of functions without their own."""
        return self.retry if self.retry is not None else RetryPolicy(max_retries=self.max_retries)

    @property
    def history_path(self) -> str | None:
        """Absolute path of the history.

        Not the object: the run is written in another thread and possibly much later, when the user's
        :class:`History` may be closed and the current directory may have changed.
        """
        if self.history is None:
            return None
        return self.history.path if isinstance(self.history, History) else absolute_path(self.history)

    def check(self, dag: DAG) -> None:
        """Raise unless the options fit a DAG: what they name must exist there.

        Raises
        ------
        ValueError
            ``keep`` names a function that does not exist or has no result, or ``retry`` lets a resource grow
            that no function asks for.
        """
        self._check_keep(dag)
        if self.retry is not None and self.retry.grow and len(dag):
            asked = dict.fromkeys(name for f in dag.functions.values() for name in declared_cost(f))
            for name in self.retry.grow.keys() - asked.keys():
                hint = suggestion(name, asked)
                raise ValueError(f"retry: grow names {name!r}, for which no function asks{hint}")

    def _check_keep(self, dag: DAG) -> None:
        if isinstance(self.keep, str):
            return
        for id in self.keep:
            try:
                known = id in dag
            except TypeError:
                known = False
            if not known:
                raise ValueError(f"keep: {dag._no_function(id)}")
            if dag[id].type != "regular":
                raise ValueError(f"keep: {id!r} is an {dag[id].type} function and has no result of its own")


def check_seconds(name: str, value: Any) -> None:
    """Raise unless ``value`` is a non-negative, finite number of seconds."""
    try:
        to_units(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def select(dag: DAG, targets: Hashable | Iterable[Hashable]) -> DAG:
    """Return the part of a DAG that its ``targets`` need, or the DAG itself if ``targets`` is None.

    Raises
    ------
    InvalidDAGError
        A target is not in the DAG.
    TypeError
        ``dag`` is no DAG, or ``targets`` are no ids.
    """
    check_dag(dag)
    if targets is None:
        return dag
    try:
        return dag.subset(targets)
    except KeyError as error:
        raise InvalidDAGError(dag.id, [f"targets: {error.args[0]}"]) from None


def warn_if_empty(dag: DAG) -> None:
    """Log a warning if a DAG has no functions, which is valid but usually a mistake."""
    if not len(dag):
        logger.warning("DAG %r is empty: it has no functions, so its results are empty", dag.id)


def check_dag(dag: Any) -> None:
    """Raise unless ``dag`` is a :class:`DAG`."""
    if not isinstance(dag, DAG):
        raise TypeError(f"dag must be a handoff_dask.DAG, not {dag!r}")


def check_order(dag: Any, client: Any) -> None:
    """Raise if the first two arguments of a call are swapped."""
    if isinstance(client, DAG) and not isinstance(dag, DAG):
        raise TypeError("dag and client are swapped: the DAG comes first")
