"""The search for races: 200 seeds pass, seeds replay exactly, and planted bugs are found.

Each search runs in a separate process, because its virtual clock must be installed before Dask is imported.
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
    """Run a search with a bug planted by the code ``plant``; return its exit status and output."""
    code = f"import search\nsearch.install_simulation()\n{plant}\nsearch.exit_process(search.main())\n"
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
@pytest.mark.parametrize(
    ("start", "seeds"), [(0, 20), pytest.param(20, 180, marks=pytest.mark.slow, id="many")]
)
def test_seeds_pass(start, seeds):
    status, text = search("--start", str(start), "--seeds", str(seeds), seconds=280)
    assert status == 0, text
    assert text.startswith(f"{seeds} seeds in "), text


def digests(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\d+) ([0-9a-f]{16})$", text, re.MULTILINE))


def test_seed_replays_regardless_of_earlier_seeds():
    _, eight = search("--digests", "--start", "4", "--seeds", "8")
    _, one = search("--digests", "--seed", "11")
    assert len(digests(eight)) == 8
    assert digests(one) == {"11": digests(eight)["11"]}


#: Bug → code that plants it, and a pattern that the output of the search must match.
BUGS = {
    "nodes are overcommitted": (
        "from handoff_dask._adapter import capacity\n"
        "real = capacity.capacity_of\n"
        "capacity.capacity_of = lambda *args: {name: 2 * n for name, n in real(*args).items()}",
        "overcommitted: ",
    ),
    "a node that left is kept": (
        "from handoff_dask._adapter.membership import Membership\n"
        "Membership.left = lambda self, address: None",
        r"nodes of the plugin|KeyError",
    ),
    "a run is not notified of its end": (
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
        "leaked: plugin.runs: ",
    ),
    "installing the plugin awaits": (
        "import asyncio\n"
        "from handoff_dask._adapter.plugin import HandoffPlugin\n"
        "start = HandoffPlugin.start\n"
        "async def late(self, scheduler):\n"
        "    await asyncio.sleep(0.5)\n"
        "    await start(self, scheduler)\n"
        "HandoffPlugin.start = late",
        "could not read the graph| hangs: |nodes of the plugin",
    ),
    "a broken connection loses the results that runs need": (
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


#: The bugs that every test run looks for; CI looks for the others, too.
ALWAYS = list(BUGS)[:1]


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in BUGS]
)
def test_planted_bug_is_found(name):
    plant, pattern = BUGS[name]
    status, text = search("--seeds", "20", plant=plant)
    assert status == 1, text
    assert re.search(pattern, text), text


@pytest.mark.slow
def test_failing_seed_is_printed():
    plant, _ = BUGS["a run is not notified of its end"]
    _, text = search("--seeds", "6", plant=plant)
    failing = re.search(r"^seed (\d+) failed: python benchmarks/search.py --seed \1 --trace$", text, re.M)
    assert failing, text
    _, whole = search("--seed", failing[1], "--trace", plant=plant)
    assert "  client c0, connects at " in whole
    assert "scheduler hook start" in whole
    assert " c0 -> scheduler handoff_prepare" in whole
