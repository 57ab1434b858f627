"""The scheduler unpickles no user objects: see docs/explanation/trust-model.md."""

from __future__ import annotations

import operator
import os
import sys

import pytest
from distributed import Client
from faulty import Sealed, unsealed
from helpers import dag_of, settle
from processes import ProcessCluster

import handoff_dask as handoff
from handoff_dask import Function


class Id:
    """An id that is not a plain value."""

    def __init__(self, folder):
        self.sealed = Sealed(folder, "id")

    def __reduce__(self):
        return self.sealed.__reduce__()


class Callable(Sealed):
    def __call__(self, *args):
        raise AssertionError("the code that it stands for is called instead")


@pytest.mark.skipif(sys.platform == "win32", reason="nodes are ended by signals")
def test_the_scheduler_unpickles_no_code_no_argument_and_no_id(tmp_path):
    folder = str(tmp_path)
    with (
        ProcessCluster({"a": {"cpu": 1}}) as cluster,  # its scheduler is in this process
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        dag = dag_of(
            Function("code", Callable(folder, operator.add), extra_args=[1, 2]),
            Function("argument", operator.neg, extra_args=[Sealed(folder, 3)]),
            Function(Id(folder), operator.abs, args=["argument"]),
            Function("inline", Callable(folder, operator.neg), args=["code"], type="inline"),
            Function("end", operator.add, args=["inline"], extra_kwargs={}, extra_args=[Sealed(folder, 1)]),
        )
        result = handoff.execute(dag, client)
        assert (result["code"], result["argument"], result["end"]) == (3, -3, -2)
        assert unsealed(folder) == {cluster.processes["a"].pid}
        assert os.getpid() not in unsealed(folder)
        del result
        settle(cluster)
