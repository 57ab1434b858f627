"""Validation: find every problem of a DAG, in one linear pass and without recursion."""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Hashable, Mapping
from typing import Any

from handoff_dask._model.dask_values import DaskValues
from handoff_dask._model.dependencies import check_graph
from handoff_dask._model.function import ISOLATION, Collocated, Function, Transfer
from handoff_dask._model.need import CostFunction, evaluate_cost, first_need
from handoff_dask._model.problems import Functions, Problems, is_in, suggested_id, user_facing_id
from handoff_dask._model.resources import AUTO, MEASURED, THREADS, is_auto, parse_amounts, to_units
from handoff_dask._model.retry import RetryPolicy, check_max_retries
from handoff_dask._model.safe_repr import safe_repr
from handoff_dask._suggest import suggestion
from handoff_dask.exceptions import (
    InvalidCollocationError,
    InvalidCostError,
    InvalidDAGError,
    InvalidFunctionError,
)

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def find_problems(
    dag_id: Hashable, functions: Functions, *, by_name: Container[Hashable] = (), graph_only: bool = False
) -> tuple[InvalidDAGError | None, tuple[Hashable, ...]]:
    """Find the problems of a DAG and its topological order.

    Parameters
    ----------
    dag_id : hashable
        Id of the DAG, for the text of the error.
    functions : mapping of id to Function
        All functions, with every :class:`Argument` expanded.
    by_name : container of ids
        Functions whose dependencies are the parameters with the names of other functions.
    graph_only : bool
        Check only for missing dependencies and cycles.

    Returns
    -------
    error : InvalidDAGError or None
        An exception, not raised, whose type is that of the first problem and whose ``problems`` lists all.
    order : tuple of ids
        Topological order, without the functions that are part of a cycle or depend on one.
    """
    problems = Problems()
    order = check_graph(functions, problems)
    if not graph_only:
        signatures, dask_values = _Signatures(), DaskValues()
        for function in functions.values():
            _check_function(function, functions, by_name, signatures, dask_values, problems)
    return problems.error(dag_id), order


# ---------------------------------------------------------------------- one function


class _Signatures:
    """Checks that arguments bind to a signature. Answers are cached per code and shape of the call."""

    def __init__(self) -> None:
        self._signatures: dict[int, inspect.Signature | None] = {}
        self._answers: dict[tuple[int, int, tuple[str, ...]], str | None] = {}

    def problem(self, code: Any, n_args: int, names: tuple[str, ...]) -> str | None:
        """Return why a call does not bind, or None. ``code`` must stay alive: its ``id()`` is a cache key."""
        key = (id(code), n_args, names)
        try:
            return self._answers[key]
        except KeyError:
            pass
        answer = None
        signature = self._signature(code)
        if signature is not None:
            try:
                signature.bind(*[None] * n_args, **dict.fromkeys(names))
            except TypeError as error:
                answer = f"{error} (signature: {signature})"
        self._answers[key] = answer
        return answer

    def unfilled(self, code: Any, n_args: int, names: Container[str]) -> list[str]:
        """Return the parameters without a default or a value in a call."""
        signature = self._signature(code)
        if signature is None:
            return []
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        unfilled = []
        for p in signature.parameters.values():
            if p.kind in positional and n_args > 0:
                n_args -= 1
            elif p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.default is p.empty:
                unfilled.append(p.name)
        return [name for name in unfilled if name not in names]

    def _signature(self, code: Any) -> inspect.Signature | None:
        key = id(code)
        if key not in self._signatures:
            try:
                self._signatures[key] = inspect.signature(code)
            except (TypeError, ValueError):  # some builtins have no signature
                self._signatures[key] = None
        return self._signatures[key]


def _check_function(
    f: Function,
    functions: Functions,
    by_name: Container[Hashable],
    signatures: _Signatures,
    dask_values: DaskValues,
    problems: Problems,
) -> None:
    if f.cost is not None and (type(f.cost) is not dict or f.cost):
        _check_cost(f, functions, problems)
    if f.node is not None:
        _check_node(f, functions, problems)
    if f.extra_args or f.extra_kwargs:
        _check_values(f, dask_values, problems)
    if f.type == "regular" and type(f) is Function:
        code = f.code
        # Fast path for the common case; the checks below cover everything else.
        if (
            type(f.args) is tuple
            and type(f.extra_args) is tuple
            and f.kwargs == {}
            and f.extra_kwargs == {}
            and f.argument_inclusion == "variadic"
            and callable(code)
            and signatures.problem(code, len(f.args) + len(f.extra_args), ()) is None
        ):
            if _has_options(f):
                _check_options(f, problems)
            return
    _check_call(f, functions, by_name, signatures, problems)
    _check_type(f, problems)
    _check_options(f, problems)


def _report(f: Function, problems: Problems, text: str) -> None:
    problems.add(InvalidFunctionError, f.id, f"function {f.id!r}: {text}")


def _check_cost(f: Function, functions: Functions, problems: Problems) -> None:
    if callable(f.cost):
        _check_cost_function(f, f.cost, functions, problems)
        return
    if not isinstance(f.cost, Mapping):
        problems.add(
            InvalidCostError, f.id, f"function {f.id!r}: cost must be a mapping, not {safe_repr(f.cost)}"
        )
        return
    auto = [name for name, amount in f.cost.items() if is_auto(amount)]
    if auto:
        _check_auto(f, auto, problems)
    cost = {name: amount for name, amount in f.cost.items() if name not in auto}
    try:
        parse_amounts(cost)
        if THREADS not in f.cost:
            return
    except ValueError:
        pass
    for name, amount in cost.items():  # find the entries that are wrong
        try:
            parse_amounts({name: amount})
            if name == THREADS:
                raise ValueError(f"{THREADS!r} cannot be set: every function takes exactly one thread")
        except ValueError as error:
            problems.add(InvalidCostError, f.id, f"function {f.id!r}: cost {safe_repr(f.cost)}: {error}")


def _check_cost_function(f: Function, cost: CostFunction, functions: Functions, problems: Problems) -> None:
    """Report a callable that gives no cost for what is known before anything runs."""
    problem = None
    if f.type == "inline":
        problem = "an inline function cannot have a cost that is a callable, because it has no attempts"
    elif f.retry is not None and f.retry.grow:
        problem = "retry: a cost that is a callable decides itself how it grows; use need.attempt for grow"
    else:
        try:
            evaluate_cost(cost, first_need(f, functions))
        except ValueError as error:
            problem = f"cost: {error}"
    if problem is not None:
        problems.add(InvalidCostError, f.id, f"function {f.id!r}: {problem}")


def _check_auto(f: Function, names: list[str], problems: Problems) -> None:
    """Report amounts that cannot be estimated."""
    for name in names:
        if name not in MEASURED:
            text = f"only memory and cpu are measured, so {safe_repr(name)} cannot be {AUTO!r}"
            hint = suggestion(name, MEASURED) if isinstance(name, str) else ""
            problems.add(InvalidCostError, f.id, f"function {f.id!r}: cost {safe_repr(f.cost)}: {text}{hint}")
    if f.isolation == "thread":
        text = f"{AUTO!r} needs isolation='process', since only a process of its own can be measured exactly"
        problems.add(InvalidCostError, f.id, f"function {f.id!r}: cost {safe_repr(f.cost)}: {text}")
    if f.type == "inline":
        text = f"an inline function cannot have the cost {AUTO!r}, because it is evaluated inside others"
        problems.add(InvalidCostError, f.id, f"function {f.id!r}: {text}")


def _check_transfer(f: Transfer, partner: Function | None, problems: Problems) -> None:
    """Check that the function beside which a transfer runs has a node.

    A partner of None is a missing producer, which :func:`_check_graph` reports.
    """
    if partner is None or partner.type == "regular":
        return
    consumer = user_facing_id(f)
    if partner.id == consumer:
        text = (
            f"function {consumer!r} cannot take an Argument: it is an {partner.type} function and has no node"
        )
    else:
        text = (
            f"function {consumer!r} takes an Argument of {partner.id!r}, which is an {partner.type} function"
            " and has no node"
        )
    problems.add(InvalidCollocationError, consumer, text)


def _check_node(f: Function, functions: Functions, problems: Problems) -> None:
    node = f.node
    if isinstance(node, Collocated):
        text = None
        other = functions[node.id] if is_in(node.id, functions) else None
        if isinstance(f, Transfer):
            _check_transfer(f, other, problems)
            return
        if other is None:
            text = f"{node.id!r}, which is not in the DAG{suggested_id(f, node.id, functions, problems)}"
        elif other is f:
            text = "itself"
        elif other.type in ("inline", "input"):
            text = f"{node.id!r}, which is an {other.type} function and has no node"
        if text:
            problems.add(InvalidCollocationError, f.id, f"function {f.id!r} is collocated with {text}")
        return
    names = node if isinstance(node, tuple) else (node,)
    if not names:
        _report(f, problems, "node is an empty list, so no node could run it")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
            given = safe_repr(name)
            _report(
                f,
                problems,
                f"node must be a name, address or host, a list of these, or Collocated, not {given}",
            )


def _check_values(f: Function, dask_values: DaskValues, problems: Problems) -> None:
    """Check that the code does not get a collection or future of Dask in place of a value."""
    others = dask_values.other_types
    if type(f.extra_args) is tuple:
        for n, value in enumerate(f.extra_args):
            if id(type(value)) not in others and (text := dask_values.describe(value)):
                _report(f, problems, f"extra_args[{n}] is {text}")
    if f.extra_kwargs and type(f.extra_kwargs) is dict:
        for name, value in f.extra_kwargs.items():
            if id(type(value)) not in others and (text := dask_values.describe(value)):
                _report(f, problems, f"extra_kwargs[{name!r}] is {text}")


def _check_call(
    f: Function,
    functions: Functions,
    by_name: Container[Hashable],
    signatures: _Signatures,
    problems: Problems,
) -> None:
    """Check that code and arguments are well-formed, and that the arguments match the code's signature."""
    well_formed = True
    for name in ("args", "extra_args"):
        if type(getattr(f, name)) is not tuple:
            _report(f, problems, f"{name} must be a list, not {safe_repr(getattr(f, name))}")
            well_formed = False
    for name in ("kwargs", "extra_kwargs"):
        value = getattr(f, name)
        if type(value) is not dict or not all(isinstance(key, str) for key in value):
            _report(f, problems, f"{name} must be a mapping of parameter names, not {safe_repr(value)}")
            well_formed = False
    if f.argument_inclusion not in ("variadic", "as_list"):
        given = safe_repr(f.argument_inclusion)
        hint = suggestion(f.argument_inclusion, ("variadic", "as_list"))
        _report(f, problems, f'argument_inclusion must be "variadic" or "as_list", not {given}{hint}')
        well_formed = False
    if f.type == "input":
        return
    if isinstance(f.code, str):
        if not _IMPORT_PATH.fullmatch(f.code):
            _report(f, problems, f'code {f.code!r} is not of the form "package.module:qualname"')
        return
    if not callable(f.code):
        _report(f, problems, f'code must be callable or "package.module:qualname", not {safe_repr(f.code)}')
        return
    if not well_formed:
        return
    if both := f.kwargs.keys() & f.extra_kwargs.keys():
        _report(f, problems, f"parameters {sorted(both)} are in both kwargs and extra_kwargs")
        return
    n_args = 1 if f.argument_inclusion == "as_list" else len(f.args)
    if isinstance(f, Transfer):
        n_args += 2  # the names of the two nodes
    names = (*f.kwargs, *f.extra_kwargs)
    text = signatures.problem(f.code, n_args + len(f.extra_args), names)
    if text and f.id in by_name:
        for name in signatures.unfilled(f.code, n_args + len(f.extra_args), names):
            _report(f, problems, _why_unfilled(f, name, functions, problems))
            text = None
    if text:
        _report(f, problems, f"the arguments do not match the signature of the code: {text}")


def _why_unfilled(f: Function, name: str, functions: Functions, problems: Problems) -> str:
    """Say why a parameter of a decorated function has no value."""
    if name in functions and name != f.id:
        return f"parameter {name!r} has no value: function {name!r} was added later; add it first"
    hint = suggested_id(f, name, functions, problems)
    hint = hint or "; give it a default value, or pass it with extra_args or extra_kwargs"
    return f"parameter {name!r} has no value: there is no function {name!r} in this DAG{hint}"


def _check_type(f: Function, problems: Problems) -> None:
    if f.type == "regular":
        return
    if f.type not in ("inline", "input"):
        hint = suggestion(f.type, ("regular", "inline", "input"))
        _report(f, problems, f'type must be "regular", "inline" or "input", not {safe_repr(f.type)}{hint}')
        return
    forbidden = ["node", "init"]
    if f.type == "input":
        forbidden += ["code", "args", "kwargs", "extra_args", "extra_kwargs", "cost"]
    else:
        # Retries, timeouts and isolation belong to the attempt of the function that evaluates it.
        forbidden += ["retry", "max_retries", "timeout", "isolation"]
    for name in forbidden:
        if getattr(f, name) not in (None, (), {}):
            _report(
                f, problems, f"an {f.type} function cannot have {name} (it has {safe_repr(getattr(f, name))})"
            )


def _has_options(f: Function) -> bool:
    return not (
        f.retry is None
        and f.max_retries is None
        and f.timeout is None
        and f.isolation is None
        and f.init is None
        and f.batch_size is None
        and f.batch_timeout is None
        and f.priority == 0
        and type(f.priority) is int
        and f.parallelism == 1
        and type(f.parallelism) is int
    )


def _check_options(f: Function, problems: Problems) -> None:
    if f.retry is not None and not isinstance(f.retry, RetryPolicy):
        _report(
            f, problems, f"retry must be a RetryPolicy, not {safe_repr(f.retry)}; a number is max_retries="
        )
    elif f.retry is not None and isinstance(f.cost, Mapping):
        for name in f.retry.grow.keys() - f.cost.keys():
            hint = suggestion(name, f.cost)
            _report(f, problems, f"retry: grow names {name!r}, for which the function does not ask{hint}")
    if f.max_retries is not None:
        try:
            check_max_retries(f.max_retries, "max_retries")
        except (TypeError, ValueError) as error:
            _report(f, problems, str(error))
    for name, least in (("timeout", 0), ("batch_timeout", 0), ("batch_size", 1), ("parallelism", 1)):
        value = getattr(f, name)
        if value is None and name != "parallelism":
            continue
        try:
            units = to_units(value)
        except ValueError as error:
            _report(f, problems, f"{name} {error}")
            continue
        if not units or value < least or (least and not isinstance(value, int)):
            wanted = "a whole number of at least 1" if least else "more than 0 seconds"
            _report(f, problems, f"{name} must be {wanted}, not {safe_repr(value)}")
    if f.isolation is not None and f.isolation not in ISOLATION:
        hint = suggestion(f.isolation, ISOLATION)
        _report(f, problems, f'isolation must be "thread" or "process", not {safe_repr(f.isolation)}{hint}')
    elif f.isolation == "thread" and f.timeout is not None:
        _report(f, problems, 'a timeout needs a process: remove isolation="thread" or the timeout')
    if isinstance(f.priority, bool) or not isinstance(f.priority, (int, float)) or f.priority != f.priority:
        _report(f, problems, f"priority must be a number, not {safe_repr(f.priority)}")
    if (
        f.init is not None
        and not callable(f.init)
        and not (isinstance(f.init, str) and _IMPORT_PATH.fullmatch(f.init))
    ):
        _report(f, problems, f'init must be callable or "package.module:qualname", not {safe_repr(f.init)}')
