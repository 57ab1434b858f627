"""The search for races: 200 seeds go right, a seed replays, and what is broken on purpose is found.

Each search is a process of its own: its clock is virtual, and that has to be so before Dask is imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def search(*arguments: str, plant: str = "", seconds: float = 110) -> tuple[int, str]:
    """Exit status and output of a search, with something planted before it begins."""
    code = f"import search\nsearch.begin()\n{plant}\nstatus = search.main()\nsearch.leave(status)\n"
    found = subprocess.run(
        [sys.executable, "-c", code, "--brief", *arguments],
        env={
            **os.environ,
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
        },
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return found.returncode, found.stdout + found.stderr


@pytest.mark.timeout(300)
def test_seeds_go_right():
    status, text = search("--seeds", "200", seconds=280)
    assert status == 0, text
    assert text.startswith("200 seeds in "), text


def digests(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\d+) ([0-9a-f]{16})$", text, re.MULTILINE))


def test_a_seed_replays_whatever_was_played_before():
    _, many = search("--digests", "--start", "4", "--seeds", "8")
    _, one = search("--digests", "--seed", "11")
    assert len(digests(many)) == 8
    assert digests(one) == {"11": digests(many)["11"]}


#: What is wrong with the package in a search, and what has to be seen of it.
PLANTED = {
    "nodes get more than fits": (
        "from handoff_dask._adapter import capacity\n"
        "real = capacity.capacity_of\n"
        "capacity.capacity_of = lambda *args: {name: 2 * n for name, n in real(*args).items()}",
        "overcommitted: ",
    ),
    "a node that left stays": (
        "from handoff_dask._adapter.membership import Membership\n"
        "Membership.left = lambda self, address: None",
        r"nodes of the plugin|KeyError",
    ),
    "a run does not hear of its end": (
        "from handoff_dask._client.run import Run\nRun._finish = lambda self, status: None",
        " hangs: ",
    ),
    "results are wrong": (
        "from handoff_dask._adapter import worker\n"
        "evaluate = worker.evaluate\n"
        "worker.evaluate = lambda *args: evaluate(*args) + 1",
        "has wrong results: ",
    ),
    "a run is never forgotten": (
        "from handoff_dask._adapter.enact import Enactor\nEnactor.collect = lambda self: None",
        "left: plugin.runs: ",
    ),
    "the plugin awaits something while it is installed": (
        "import asyncio\n"
        "from handoff_dask._adapter.plugin import HandoffPlugin\n"
        "start = HandoffPlugin.start\n"
        "async def late(self, scheduler):\n"
        "    await asyncio.sleep(0.5)\n"
        "    await start(self, scheduler)\n"
        "HandoffPlugin.start = late",
        "could not read the graph| hangs: |nodes of the plugin",
    ),
    "a break of a connection loses what runs need": (
        "from handoff_dask._adapter.disconnects import DisconnectedClients\n"
        "DisconnectedClients.expect = lambda self, client, keys: None",
        "RunCancelledError",
    ),
    "a hook raises": (
        "from handoff_dask._adapter.membership import Membership\n"
        "Membership.joined = lambda self, address: 1 / 0",
        "ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_broken_is_found(name):
    plant, sign = PLANTED[name]
    status, text = search("--seeds", "20", plant=plant)
    assert status == 1, text
    assert re.search(sign, text), text


def test_a_seed_that_goes_wrong_is_shown():
    plant, _ = PLANTED["a run does not hear of its end"]
    _, text = search("--seeds", "6", plant=plant)
    number = re.search(r"^seed (\d+) went wrong: python benchmarks/search.py --seed \1 --trace$", text, re.M)
    assert number, text
    _, whole = search("--seed", number[1], "--trace", plant=plant)
    assert "  client c0, connects at " in whole
    assert "scheduler hook start" in whole
    assert " c0 -> scheduler handoff_prepare" in whole
