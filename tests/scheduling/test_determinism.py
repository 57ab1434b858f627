"""Determinism: the same events lead to the same decisions, whatever strings and objects hash to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling.harness import Core
from scheduling.scenarios import Scenario

#: Few of them are eligible for costs with a GPU or much memory.
NODES = ["cpu 2", "cpu 4", "cpu 4, memory 64", "cpu 4, gpu 2, memory 8"]
COSTS = ["cpu 1"] * 4 + ["cpu 4, gpu 1", "gpu 0.5", "memory 60", "cpu 1, gpu 2"]


def trace_of(seed: int) -> list[list[str]]:
    core = Core(prefetch_horizon=0.01 * (seed % 2))
    return Scenario(core, seed, NODES, 2 + seed % 10, COSTS, paths=True).play(60)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 3000), max_size=20))
@settings(deadline=None, max_examples=examples(30))
def test_same_events_lead_to_the_same_decisions(seed, sizes):
    trace = trace_of(seed)
    filling = [bytearray(n) for n in sizes]  # shifts memory addresses, by which nodes hash
    again = trace_of(seed)
    assert trace == again
    assert len(filling) == len(sizes)


@pytest.mark.slow
def test_decisions_do_not_depend_on_string_hashes():
    # Each process prints the decisions of forty scenarios.
    program = "from scheduling.test_determinism import trace_of\nfor seed in range(40): print(trace_of(seed))"
    tests = str(Path(__file__).parent.parent)
    path = os.pathsep.join([tests, *filter(None, sys.path)])
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("@") > 1000
