"""``targets=`` runs a part of a DAG."""

from __future__ import annotations

import pytest
from helpers import add, dag_of, identity

import handoff_dask as handoff
from handoff_dask import AllocationError, Function, InvalidDAGError

RUN = {
    "execute": handoff.execute,
    "execute_local": lambda dag, client, **options: handoff.execute_local(dag, **options),
}


@pytest.fixture
def dag():
    return dag_of(
        Function("a", identity, extra_args=[1]),
        Function("b", add, args=["a"], extra_args=[1]),
        Function("c", add, args=["a"], extra_args=[2]),
        Function(("d", 1), add, args=["b", "c"], cost={"quantum": 1}),
    )


@pytest.mark.parametrize("how", RUN)
@pytest.mark.parametrize(
    ("targets", "results"),
    [("b", {"a": 1, "b": 2}), (["b", "c"], {"a": 1, "b": 2, "c": 3}), (["a"], {"a": 1})],
)
def test_only_the_targets_and_what_they_need_run(client, dag, how, targets, results):
    assert RUN[how](dag, client, targets=targets).results == results


def test_costs_of_other_functions_do_not_matter(client, dag):
    with pytest.raises(AllocationError, match="quantum"):
        handoff.execute(dag, client)
    with pytest.raises(AllocationError, match="quantum"):
        handoff.execute(dag, client, targets=("d", 1))
    assert handoff.execute(dag, client, targets=["b", "c"])["c"] == 3


def test_keep_sinks_means_the_sinks_of_what_runs(client, dag):
    run = handoff.submit(dag, client, targets=["b", "c"], keep="sinks")
    assert run.result(timeout=30).results == {"b": 2, "c": 3}
    assert list(run.dag) == ["a", "b", "c"]


@pytest.mark.parametrize("how", RUN)
def test_unknown_target(client, dag, how):
    with pytest.raises(InvalidDAGError, match=r"targets: .*has no function 'x'"):
        RUN[how](dag, client, targets=["b", "x"])
