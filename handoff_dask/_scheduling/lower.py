"""Lowering: translate a DAG to a :class:`RunSpec`, with numbers for functions and kinds for costs.

Lowering never inspects code, so it works even where the functions could not run.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handoff_dask._model.code_keys import code_keys
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import (
    Collocated,
    Function,
    Isolation,
    Transfer,
    declared_cost,
    is_isolated,
    policy_of,
)
from handoff_dask._model.graph import collocation_groups, depth_first, inline_order, placed_dependencies
from handoff_dask._model.need import evaluate_cost, first_need
from handoff_dask._model.resources import UNIT, is_auto, parse_amounts, to_number, to_units
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.spec import Kind, RunSpec
from handoff_dask.exceptions import InvalidCostError

#: The smallest amount, which stands for one that is to be estimated.
LEAST = 1 / UNIT


@dataclass(frozen=True, slots=True)
class Lowered:
    """A lowered DAG, and the mapping between function numbers and ids.

    Attributes
    ----------
    spec : RunSpec
    order : list
        Function number → id.
    number_of : dict
        Id → function number. Inline functions have no number.
    dependencies : dict
        Id → ids of the functions whose results it takes, directly or through inline functions.
    inlined : dict
        Id → ids of the inline functions that it evaluates, in topological order.
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
    isolation: Isolation = "thread",
    **options: Any,
) -> Lowered:
    """Lower a DAG.

    Parameters
    ----------
    dag : DAG
        It is validated first.
    run_id : str
    policy : RetryPolicy
        Default for functions without a retry policy.
    limits : mapping of str to number, optional
        Name → limit of the run.
    isolation : {"thread", "process"}
        Default for functions without their own.
    **options
        Further fields of :class:`RunSpec`.

    Raises
    ------
    InvalidDAGError
        The DAG is invalid, contains input functions, which have values only in a stream, or estimates an
        amount that is a limit of the run.
    """
    dag._validate_to_run()
    functions = dag.functions
    inlined = inline_order(functions, dag._topological_order())
    dependencies = placed_dependencies(functions, inlined)
    order = depth_first(dependencies)
    number_of = {id: number for number, id in enumerate(order)}
    limit_units = {name: to_units(to_number(name, amount)) for name, amount in (limits or {}).items()}
    kinds = _Kinds(policy, limit_units, isolation)
    keys = code_keys(functions)
    kind_of = []
    dependents: list[list[int]] = [[] for _ in order]
    for number, id in enumerate(order):
        f = functions[id]
        cost = f.cost
        if callable(cost):  # what it gives before anything runs counts until it is ready
            try:
                f = f.replace(cost=evaluate_cost(cost, first_need(f, functions)))
            except ValueError as error:  # validation has passed, so it depends on something else as well
                raise InvalidCostError(dag.id, [f"function {id!r}: cost: {error}"], [id]) from error
        if limited := [name for name in limit_units if is_auto(declared_cost(f).get(name))]:
            reason = f"{limited[0]!r} is a limit of the run, for which it cannot ask 'auto'"
            raise InvalidCostError(dag.id, [f"function {id!r}: cost {f.cost!r}: {reason}"], [id])
        evaluated = [functions[i] for i in inlined.get(id, ())]
        kind_of.append(kinds.index(f, keys[id], evaluated, computed=callable(cost)))
        for d in set(dependencies[id]):
            dependents[number_of[d]].append(number)
    peers = {
        number_of[id]: number_of[f.peer]
        for id, f in functions.items()
        if isinstance(f, Transfer) and f.peer in number_of
    }
    groups = [sorted(number_of[id] for id in group) for group in collocation_groups(functions)]
    # A deserializer whose consumer does not run forms a group alone. The serializer must be told its node
    # before it starts, and only a group can be bound to a node in advance.
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
    """The distinct kinds of functions in a run."""

    def __init__(self, policy: RetryPolicy, limits: Mapping[str, int], isolation: Isolation) -> None:
        self.policy = policy
        self.isolation = isolation
        self.limits = limits
        self.kinds: list[Kind] = []
        self._index: dict[Any, int] = {}

    def index(self, f: Function, code: str, inline: Sequence[Function], computed: bool) -> int:
        """Return the index of a function's kind, adding the kind if it is new.

        Parameters
        ----------
        f : Function
        code : str
            The key under which it is learnt.
        inline : sequence of Function
            The inline functions that it evaluates. Their costs count too.
        computed : bool
            Whether its cost is computed when it is ready.
        """
        cost: Mapping[str, Any] = declared_cost(f)
        for g in inline:  # they run one after another, so the maximum counts
            cost = {**cost, **{r: max(n, cost.get(r, 0)) for r, n in declared_cost(g).items()}}
        pins = f.node if f.node is None or type(f.node) is tuple else (f.node,)
        if isinstance(f.node, Collocated):
            pins = None
        policy = policy_of(f, self.policy)
        isolated = is_isolated(f, self.isolation)
        auto = tuple(r for r, amount in cost.items() if is_auto(amount))
        key: Any = (tuple(cost.items()), pins, f.priority, policy, code, isolated, computed)
        try:
            index = self._index.get(key)
        except TypeError:  # unhashable amounts: a kind per function
            key, index = (id(f),), None
        if index is None:
            units = parse_amounts({r: LEAST if is_auto(amount) else amount for r, amount in cost.items()})
            index = self._index[key] = len(self.kinds)
            self.kinds.append(
                Kind(
                    cost=tuple((r, n) for r, n in units.items() if r not in self.limits),
                    limit_cost=tuple((r, n) for r, n in units.items() if r in self.limits),
                    asked=tuple((r, a if type(a) in (int, str) else float(a)) for r, a in cost.items()),
                    pins=None if pins is None else tuple(str(p) for p in pins),
                    # Without ``retry_on``: the scheduler may lack the exception types, so nodes match them.
                    policy=RetryPolicy(
                        policy.max_retries,
                        policy.delay,
                        policy.backoff,
                        policy.max_delay,
                        policy.jitter,
                        elsewhere=policy.elsewhere,
                        grow=policy.grow,
                    ),
                    code=code,
                    priority=f.priority,
                    auto=auto,
                    computed=computed,
                    isolated=isolated,
                )
            )
        return index
