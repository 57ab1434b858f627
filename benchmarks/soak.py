"""Soak: many sequential and concurrent runs must leave nothing behind on the scheduler.

    python benchmarks/soak.py

The scheduler runs in a separate process, so that its memory can be measured. It grows a little nevertheless:
Dask keeps a span, with task groups and metrics, for everything that a client has ever submitted, functions
and plain tasks alike (``distributed.spans``; about 25 kB per run of this script).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common import Table, machine_line, silence_dask_logs
from distributed import Client

import handoff_dask as handoff
from handoff_dask import DAG, Collocated, Function, RetryPolicy
from handoff_dask._adapter import evaluation
from handoff_dask._adapter.snapshot import FAILURES, FailureView

RUNS = 200
AT_ONCE = 20
WIDTH = 20
WARM_UP = 20  # runs after which one-time growth is over


#: Parts of tasks. A connection keeps the last message that it handled, with all functions in it, until the
#: next message. :func:`flush` reduces this to one function per connection.
IN_FLIGHT = frozenset({"objects: Program", "objects: Shape"})
LAST_MESSAGES = 4

#: Settings that turn off bounded logs, which would hide unbounded growth: Dask's log of the last 1,000
#: message batches to each worker, which contain functions, and the scheduler's archive of recent runs.
WITHOUT_LOGS = {"distributed.admin.low-level-log-length": 0, "handoff.recent-runs": 0}

NODES = {"node1": "cpu=4,memory=8192,gpu=1", "node2": "cpu=2,memory=4096"}


# ---------------------------------------------------------------------- the runs


def fail_first(*inputs: int) -> int:
    """Fail in the first attempt, then add up."""
    if handoff.current().attempt == 1:
        raise OSError("not yet")
    return sum(inputs)


def sum_of(*inputs: int) -> int:
    """Add up."""
    return sum(inputs)


def dag_of(number: int, width: int = WIDTH) -> DAG:
    """Make a DAG with costs, pins, groups, limits, priorities, retries, and unique code."""
    dag = DAG(f"soak {number}")
    for i in range(width):
        cost = ({"cpu": 1}, {"memory": 1000}, {"gpu": 0.5}, {"db": 1})[i % 4]
        dag.add_function(Function(("source", i), sum_of, extra_args=[i], cost=cost, priority=i % 3))
        code = fail_first if i % 5 == 0 else sum_of
        place = Collocated(("source", i)) if i % 3 == 0 else "node1" if i % 3 == 1 else None
        dag.add_function(Function(("next", i), code, args=[("source", i)], node=place))
    ends = [("next", i) for i in range(width)]
    dag.add_function(Function("end", lambda *xs: sum(xs) + number, args=ends, cost={"cpu": 1}))
    return dag


def options() -> dict[str, Any]:
    """Return the options of every run."""
    return {"limits": {"db": 3}, "retry": RetryPolicy(max_retries=2, delay=0.001), "keep": "all"}


def check(result: Any, number: int, width: int = WIDTH) -> None:
    """Raise AssertionError unless a run returned the right result."""
    if result["end"] != number + width * (width - 1) // 2:
        raise AssertionError(f"run {number} returned {result['end']}")


def run_sequentially(client: Client, numbers: Sequence[int], width: int = WIDTH) -> None:
    for number in numbers:
        check(handoff.execute(dag_of(number, width), client, **options()), number, width)


def run_concurrently(client: Client, numbers: Sequence[int], width: int = WIDTH) -> None:
    runs = [handoff.submit(dag_of(n, width), client, **options()) for n in numbers]
    for run, number in zip(runs, numbers, strict=True):
        check(run.result(), number, width)


def flush(client: Client) -> None:
    """Send a small message over every connection to a node."""
    for name in NODES:
        handoff.execute(DAG("flush").add_function(Function("f", sum_of, node=name)), client)


# ---------------------------------------------------------------------- leaks


def is_ours(kind: type) -> bool:
    """Return whether a class is defined in handoff_dask."""
    return str(kind.__module__).startswith("handoff_dask")


def sizes_of(root: Any, name: str) -> dict[str, int]:
    """Return path → size of all collections reachable from an object through objects of handoff_dask."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    todo = deque([(name, root)])
    while todo:
        path, value = todo.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (dict, list, set, frozenset, deque, tuple)):
            found[path] = found.get(path, 0) + len(value)
            items = value.items() if isinstance(value, dict) else enumerate(value)
            # Elements share a path, because the keys of runs and tasks differ each time.
            for key, item in items:
                todo.append((f"{path}[]", item))
                todo.append((f"{path}[key]", key))
        elif is_ours(type(value)):
            names = [*getattr(value, "__dict__", ())]
            names += [s for c in type(value).__mro__ for s in getattr(c, "__slots__", ())]
            todo.extend((f"{path}.{n}", getattr(value, n)) for n in names if hasattr(value, n))
    return found


def measure_sizes(dask_scheduler: Any) -> dict[str, int]:
    """On the scheduler: return the sizes of everything that a run touches."""
    gc.collect()
    plugin = dask_scheduler.plugins["handoff"]
    sizes = sizes_of(plugin, "plugin")
    kinds = [type(o) for o in gc.get_objects()]
    ours = Counter(kind.__qualname__ for kind in kinds if is_ours(kind))
    sizes |= {f"objects: {name}": n for name, n in ours.items()}
    for name in ("tasks", "unrunnable", "queued", "task_groups", "clients", "plugins", "stream_handlers"):
        sizes[f"scheduler.{name}"] = len(getattr(dask_scheduler, name))
    sizes["scheduler.task_prefixes"] = len(dask_scheduler.task_prefixes)
    topics = [topic for topic in dask_scheduler._broker._topics if not topic.startswith("Client-")]
    sizes["scheduler.topics"] = len(topics)  # Dask keeps an empty topic per client forever
    groups = sum(len(prefix.groups) for prefix in dask_scheduler.task_prefixes.values())
    sizes["scheduler.task_prefixes.groups"] = groups
    stealing = getattr(dask_scheduler.extensions.get("stealing"), "unknown_durations", {})
    sizes["scheduler.stealing"] = sum(map(len, stealing.values()))
    wants = sum(len(c.wants_what) for c in dask_scheduler.clients.values())
    sizes["scheduler.clients.wants_what"] = wants
    return sizes


def is_idle(dask_scheduler: Any) -> bool:
    """On the scheduler: return whether it has forgotten every run and every task."""
    return not dask_scheduler.plugins["handoff"].runs and not dask_scheduler.tasks


def differences(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return path → sizes before and after, where they differ by more than caches and messages explain."""
    found = {}
    for name in sorted(before.keys() | after.keys()):
        pair = before.get(name, 0), after.get(name, 0)
        if name.startswith("plugin.failures."):  # the dashboard shows the last ones
            good = pair[1] <= FAILURES * len(FailureView.__annotations__)
        elif name == "objects: _Code":  # cached on in-process nodes
            good = pair[1] <= evaluation._CACHE_SIZE
        elif name in IN_FLIGHT:
            good = pair[1] - pair[0] <= LAST_MESSAGES
        elif name.startswith("objects: "):
            good = pair[1] <= pair[0]  # some may have been in flight before
        else:
            good = pair[0] == pair[1]
        if not good:
            found[name] = pair
    return found


def settled_differences(
    measure: Callable[[], Mapping[str, int]], before: Mapping[str, int], seconds: float = 10.0
) -> dict[str, tuple[int, int]]:
    """Return the differences that remain after at most ``seconds``.

    Threads and connections of the scheduler keep the objects of their last operation, such as a graph, until
    the next one. Real leaks remain.
    """
    deadline = time.monotonic() + seconds
    while (differ := differences(before, measure())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return differ


# ---------------------------------------------------------------------- the cluster


@contextlib.contextmanager
def cluster() -> Iterator[tuple[str, int]]:
    """Start a scheduler and two nodes in separate processes; yield the scheduler's address and process id."""
    processes = []
    here = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    kept = {f"DASK_{n.upper().replace('.', '__').replace('-', '_')}": str(v) for n, v in WITHOUT_LOGS.items()}
    environment = {**os.environ, **kept, "PYTHONPATH": os.pathsep.join(filter(None, here))}

    def dask(program: str, *arguments: str) -> int:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard", *arguments]
        with open(os.devnull, "wb") as null:
            processes.append(subprocess.Popen(command, stdout=null, stderr=null, env=environment))
        return processes[-1].pid

    with tempfile.TemporaryDirectory() as folder:
        contact = Path(folder) / "scheduler.json"
        try:
            where = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0")
            pid = dask("scheduler", *where, "--scheduler-file", str(contact))
            deadline = time.monotonic() + 60
            while not (contact.exists() and contact.read_text()):
                if time.monotonic() > deadline:
                    raise TimeoutError("the scheduler did not start within 60 s")
                time.sleep(0.01)
            address = json.loads(contact.read_text())["address"]
            for name, resources in NODES.items():
                dask(
                    "worker",
                    address,
                    "--no-nanny",
                    "--name",
                    name,
                    "--resources",
                    resources,
                    "--nthreads",
                    "4",
                )
            yield address, pid
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()


def await_idle(client: Client) -> None:
    """Wait until the scheduler has forgotten all runs.

    Raises
    ------
    TimeoutError
        It has not within 60 s.
    """
    gc.collect()
    deadline = time.monotonic() + 60
    while not client.run_on_scheduler(is_idle):
        if time.monotonic() > deadline:
            raise TimeoutError("the scheduler has not forgotten the runs within 60 s")
        time.sleep(0.05)


def memory_of(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    import psutil

    return float(psutil.Process(pid).memory_info().rss) / 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all stages and print what has grown; return 1 if anything has after the last one, otherwise 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="number of sequential runs")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="number of concurrent runs")
    parser.add_argument(
        "--width", type=int, default=WIDTH, help="a run has twice as many functions, plus one"
    )
    options = parser.parse_args(arguments)
    silence_dask_logs()
    print(machine_line())
    table = Table(("", "runs", "seconds", "scheduler MB", "sizes that differ"), (-20, 5, 8, 13, 18))
    with cluster() as (address, pid), Client(address, set_as_default=False) as client:
        client.wait_for_workers(len(NODES), timeout=60)
        before: dict[str, int] = {}
        numbers = iter(range(sys.maxsize))
        stages = [
            ("warm-up", WARM_UP, run_sequentially),
            ("warm-up, concurrent", options.at_once, run_concurrently),
            ("sequential", options.runs, run_sequentially),
            ("concurrent", options.at_once, run_concurrently),
            ("sequential", options.runs, run_sequentially),
        ]
        differ: dict[str, tuple[int, int]] = {}
        for stage, n, execute in stages:
            begin = time.perf_counter()
            execute(client, [next(numbers) for _ in range(n)], options.width)
            seconds = time.perf_counter() - begin
            flush(client)
            await_idle(client)
            measure = partial(client.run_on_scheduler, measure_sizes)
            if stage.startswith("warm-up"):
                before = measure()
            differ = settled_differences(measure, before)
            table.row(stage, str(n), f"{seconds:.1f}", f"{memory_of(pid):.1f}", str(len(differ)))
            for name, (old, new) in differ.items():
                print(f"  {name}: {old} -> {new}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
