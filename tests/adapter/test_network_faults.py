"""A node's link is cut temporarily: the run completes without duplicate work. Uses Linux namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "network.py"


def in_a_network(*arguments):
    """Run the script in a namespace where it may create networks."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = ["unshare", "-rn", sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)


def obstacle():
    """Return why this machine cannot create network namespaces; None if it can."""
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"program {program} is missing"
    tried = in_a_network("permission")
    return f"no network namespaces: {tried.stderr[-200:]}" if tried.returncode else None


@pytest.fixture(scope="module", autouse=True)
def _namespaces():
    if reason := obstacle():
        pytest.skip(reason)


def run(folder, seconds, ttl):
    done = in_a_network(str(folder), str(seconds), str(ttl))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(found):
    assert found["end"] == 193
    for outcomes in found["outcomes"].values():
        assert outcomes[-1][1] == "finished"
    once = [id for id in found["outcomes"] if id not in ("made", "held")]
    assert all(len(found["outcomes"][id]) == 1 for id in once)
    assert found["others"] < 5, "functions on other nodes waited for the cut link"


@pytest.mark.slow
def test_a_link_that_is_cut_for_less_than_the_worker_ttl(tmp_path):
    found = run(tmp_path, 2, ttl=5)
    check(found)
    assert not found["done before"]
    assert not found["gone"]
    assert found["outcomes"]["made"] == [[found["cut"], "finished"]]
    assert found["outcomes"]["held"] == [[found["cut"], "finished"]]
    assert found["held"] == 1


@pytest.mark.slow
def test_a_link_that_is_cut_for_longer_than_the_worker_ttl(tmp_path):
    found = run(tmp_path, 9, ttl=3)
    check(found)
    assert found["done before"], "the run waited for the node"
    assert found["gone"]
    (other,) = {"b", "c"} - {found["cut"]}
    assert found["outcomes"]["made"] == [[found["cut"], "finished"], [other, "finished"]]
    assert found["outcomes"]["held"] == [[found["cut"], "lost"], [other, "finished"]]
    assert found["held"] == 2
