from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from handoff_dask._cli.main import cli

PIPELINE = """
import time

from handoff_dask import DAG, Function

print("imported")


def load(path):
    return f"Loaded: {path}"


def process(data):
    print("processing")
    return f"Processed [{data}]"


def fail():
    raise ValueError("no luck")


def nap(seconds):
    time.sleep(seconds)


fine = DAG("fine")
fine.add_function(Function("load", load, extra_args=["data.txt"], cost={"cpu": 1, "memory": 1000}))
fine.add_function(Function("process", process, args=["load"], cost={"cpu": 2, "gpu": 1}))

failing = DAG("failing").add_function(Function("fail", fail))
failing.add_function(Function("after", process, args=["fail"]))

invalid = DAG("invalid").add_function(Function("a", load, args=["missing"]))
invalid.add_function(Function("b", load, extra_args=["x"], cost={"cpu": -1}))

pairs = DAG("pairs").add_function(Function(("load", 1), load, extra_args=[1]))
pairs.add_function(Function("end", process, args=[("load", 1)]))

greedy = DAG("greedy").add_function(Function("a", load, extra_args=["x"], cost={"cpu": 10_000}))
slow = DAG("slow").add_function(Function("nap", nap, extra_args=[60]))

licensed = DAG("licensed").add_function(Function("a", load, extra_args=["x"], cost={"licence": 2}))
pinned = DAG("pinned").add_function(Function("a", load, extra_args=["x"], node="node9"))


def build():
    return fine


def broken():
    raise RuntimeError("cannot be built")


number = 3
"""

NODES = "node1: {cpu: 4, memory: 8192}\nnode2: {cpu: 2, memory: 4096, gpu: 1}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A new current directory, with DAGs in ``pipeline.py`` and nodes in ``nodes.yaml``."""
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "nodes.yaml").write_text(NODES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("pipeline", None)


@pytest.fixture
def call(folder):
    """Call the command: ``call("validate", "pipeline:fine", code=0)`` returns standard output and error."""

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        done = CliRunner().invoke(cli, arguments, prog_name="handoff-dask")
        assert done.exit_code == code, (done.output, done.stderr, done.exception)
        return done.stdout, done.stderr

    return call


@pytest.fixture
def call_json(call):
    """Call the command with ``--json``, and return the parsed standard output."""

    def call_json(*arguments: str, code: int = 0):
        return json.loads(call(*arguments, "--json", code=code)[0])

    return call_json
