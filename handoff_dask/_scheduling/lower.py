"""A DAG as a run for the scheduling core: functions as numbers, costs and constraints as few kinds.

Code is not looked at, so that a DAG can be lowered where nothing is going to run.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, Transfer, duration_keys, policy_of
from handoff_dask._model.graph import collocation_groups, depth_first, inline_order, placed_dependencies
from handoff_dask._model.resources import parse_amounts, to_units
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.spec import Kind, RunSpec


@dataclass(frozen=True, slots=True)
class Lowered:
    """A DAG as the core sees it, and how numbers and ids go together.

    Attributes
    ----------
    spec : RunSpec
    order : list
        Function number → id.
    number_of : dict
        Id → function number. Inline functions have none.
    dependencies : dict
        Id → ids of the functions whose results it takes, directly or through inline functions.
    inlined : dict
        Id → the inline functions that it evaluates, in an order in which they can be.
    """

    spec: RunSpec
    order: list[Hashable]
    number_of: dict[Hashable, int]
    dependencies: dict[Hashable, tuple[Hashable, ...]]
    inlined: Mapping[Hashable, tuple[Hashable, ...]]


def lower_dag(
    dag: DAG,
    run_id: str,
    *,
    policy: RetryPolicy,
    limits: Mapping[str, Any] | None = None,
    **options: Any,
) -> Lowered:
    """Lower a DAG.

    Parameters
    ----------
    dag : DAG
        Validated first.
    run_id : str
    policy : RetryPolicy
        Of functions that have none of their own.
    limits : mapping of str to number, optional
    **options
        Other fields of :class:`RunSpec`.

    Raises
    ------
    InvalidDAGError
        Also for input functions, which have values in a stream only.
    """
    dag._validate_to_run()
    functions = dag.functions
    inlined = inline_order(functions, dag._topological_order())
    dependencies = placed_dependencies(functions, inlined)
    order = depth_first(dependencies)
    number_of = {id: number for number, id in enumerate(order)}
    limit_units = {name: to_units(amount) for name, amount in (limits or {}).items()}
    kinds = _Kinds(policy, limit_units)
    names = duration_keys(functions)
    kind_of = []
    dependents: list[list[int]] = [[] for _ in order]
    for number, id in enumerate(order):
        kind_of.append(kinds.index(functions[id], names[id], [functions[i] for i in inlined.get(id, ())]))
        for d in set(dependencies[id]):
            dependents[number_of[d]].append(number)
    peers = {
        number_of[id]: number_of[f.peer]
        for id, f in functions.items()
        if isinstance(f, Transfer) and f.peer in number_of
    }
    groups = [sorted(number_of[id] for id in group) for group in collocation_groups(functions)]
    # A deserializer whose consumer need not run is a group by itself: only the node of a group can be decided
    # on, and told to the serializer, before anything of it starts.
    grouped = {number for group in groups for number in group}
    groups += [[n] for n, peer in peers.items() if peer < n and n not in grouped]
    spec = RunSpec(
        run_id=run_id,
        dag_id=dag.id,
        ids=order,
        kinds=kinds.kinds,
        kind_of=kind_of,
        groups=groups,
        dependents=[tuple(numbers) for numbers in dependents],
        peers=peers,
        limits=tuple(limit_units.items()),
        **options,
    )
    return Lowered(spec, order, number_of, dependencies, inlined)


class _Kinds:
    """The kinds of functions there are in a run, each kept once."""

    def __init__(self, policy: RetryPolicy, limits: Mapping[str, int]) -> None:
        self.policy = policy
        self.limits = limits
        self.kinds: list[Kind] = []
        self._index: dict[Any, int] = {}

    def index(self, f: Function, name: str, inline: Sequence[Function]) -> int:
        """Index of the kind of ``f``, with the costs of the inline functions that it evaluates.

        ``name`` is the one under which its durations are learnt.
        """
        cost: Mapping[str, Any] = f.cost or {}
        for g in inline:  # one after the other, so the most that any of them needs
            cost = {**cost, **{r: max(n, cost.get(r, 0)) for r, n in (g.cost or {}).items()}}
        pins = f.node if f.node is None or type(f.node) is tuple else (f.node,)
        if isinstance(f.node, Collocated):
            pins = None
        policy = policy_of(f, self.policy)
        isolated = f.timeout is not None
        key: Any = (tuple(cost.items()), pins, f.priority, policy, name, isolated)
        try:
            index = self._index.get(key)
        except TypeError:  # amounts that do not hash; rare enough
            key, index = (id(f),), None
        if index is None:
            units = parse_amounts(cost)
            index = self._index[key] = len(self.kinds)
            self.kinds.append(
                Kind(
                    cost=tuple((r, n) for r, n in units.items() if r not in self.limits),
                    limit_cost=tuple((r, n) for r, n in units.items() if r in self.limits),
                    asked=tuple((r, a if type(a) is int else float(a)) for r, a in cost.items()),
                    pins=None if pins is None else tuple(str(p) for p in pins),
                    # The types are matched where the exception is raised; the scheduler need not know them.
                    policy=RetryPolicy(
                        policy.max_retries,
                        policy.delay,
                        policy.backoff,
                        policy.max_delay,
                        policy.jitter,
                        elsewhere=policy.elsewhere,
                    ),
                    code=name,
                    priority=f.priority,
                    isolated=isolated,
                )
            )
        return index
