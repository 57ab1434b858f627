from __future__ import annotations

import gc
import os
import signal
import sys

import dask
import pytest
from dask.system import CPU_COUNT
from distributed import Client
from helpers import settle
from hypothesis import settings

import handoff_dask as handoff
from handoff_dask._adapter import membership

# Many images set PYTHONDONTWRITEBYTECODE, with which each process that a test starts would compile the whole
# package. That of the dependencies was compiled when they were installed.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# As filterwarnings in pyproject.toml, for the processes that tests start, whose standard error they read.
slow_directories = "ignore:Creating scratch directories is taking a surprisingly long time:UserWarning"
filters = os.environ.get("PYTHONWARNINGS", "")
if slow_directories not in filters:
    os.environ["PYTHONWARNINGS"] = f"{filters},{slow_directories}".removeprefix(",")

# Let Dask check its invariants after every step, so that a plugin that violates them fails its tests.
dask.config.set({"distributed.scheduler.validate": True, "distributed.admin.tick.limit": "1h"})

# A node whose process has died comes back, but a busy machine may need more than Dask's 15 seconds for that.
dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"})

# New processes may need long to import the package, and tests rely on all workers being nodes.
membership.PROBE_TIMEOUT = 60.0

# Dask's profiler calls sys._current_frames(), which can deadlock Python 3.11 if a garbage collection starts
# inside: https://github.com/python/cpython/issues/106883. Hypothesis has a callback that makes it likely.
dask.config.set({"distributed.worker.profile.enabled": False})

# Shells start background processes with SIGINT ignored, and the children of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The duration of an example depends more on the machine than on the code.
settings.register_profile("handoff", deadline=None)
settings.load_profile("handoff")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config) -> None:
    """Distribute the whole suite over the cores, but run selected tests, or a debugger, in this process."""
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    alone = options.usepdb or options.collectonly or hasattr(config, "workerinput")
    if whole and not alone and config.pluginmanager.has_plugin("xdist") and options.numprocesses is None:
        # One more than there are cores: a quarter of the time, tests wait for messages and processes.
        options.numprocesses = min(CPU_COUNT + 1, 8)
        options.dist = "worksteal"  # keeps most tests of a file, which share a cluster, together


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collections: they are large and permanent."""
    gc.collect()
    gc.freeze()


NODES = {
    "node1": {"cpu": 4, "memory": 8192, "gpu": 1},
    "node2": {"cpu": 2, "memory": 4096},
}


@pytest.fixture(scope="module")
def module_cluster():
    with handoff.local_cluster(NODES) as cluster:
        yield cluster


@pytest.fixture
def client(module_cluster):
    """A client of a cluster of two unequal nodes. Fails if a test leaves anything on the cluster."""
    with Client(module_cluster, set_as_default=False) as client:
        yield client
    settle(module_cluster)


@pytest.fixture
def cluster(module_cluster):
    return module_cluster
