from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile

import dask
import pytest
from dask.system import CPU_COUNT
from distributed import Client
from helpers import settle
from hypothesis import settings

import handoff_dask as handoff

# Where the interpreter is told to store no compiled code, as in many images, each process that a test starts
# would compile the whole package.
if sys.dont_write_bytecode and "PYTEST_XDIST_WORKER" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="handoff-tests-")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = compiled.name

# Dask checks its own invariants after every step: a plugin that upsets them fails here.
dask.config.set({"distributed.scheduler.validate": True, "distributed.admin.tick.limit": "1h"})

# A shell lets what it starts in the background ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of the machine than of the code.
settings.register_profile("handoff", deadline=None)
settings.load_profile("handoff")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at its options
def pytest_cmdline_main(config) -> None:
    """Spread the whole suite over the cores; whoever names tests, or debugs, has them in this process."""
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    alone = options.usepdb or options.collectonly or hasattr(config, "workerinput")
    if whole and not alone and config.pluginmanager.has_plugin("xdist") and options.numprocesses is None:
        options.numprocesses = min(CPU_COUNT, 8)
        options.dist = "worksteal"  # tests of a file stay together, and so do the clusters that they share


def pytest_collection_finish() -> None:
    """Leave what has been imported out of each garbage collection: it is large, and stays."""
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
    """A client of a cluster of two unequal nodes; afterwards nothing must be left on it."""
    with Client(module_cluster, set_as_default=False) as client:
        yield client
    settle(module_cluster)


@pytest.fixture
def cluster(module_cluster):
    return module_cluster
