"""Weight of the dashboard page, and the processor time of its updates, during a large run.

    python benchmarks/dashboard.py [nodes] [functions] [updates]

Prints the size of the document that a browser loads first, and for the updates that follow, once a second,
their size and the processor time of the scheduler's thread to collect the data and to draw it. A browser also
loads Bokeh's scripts, once for all of Dask's pages. All runs in this process, and functions only sleep.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from bokeh.document import Document
from bokeh.protocol import Protocol
from distributed import Client

import handoff_dask as handoff
from handoff_dask import DAG, Function, RetryPolicy
from handoff_dask._adapter.page_source import PageSource
from handoff_dask._display import dashboard

#: Code → number of functions in a thousand, and their cost.
CODES: dict[str, tuple[int, dict[str, float]]] = {
    "load": (100, {"cpu": 1, "memory": 2_000}),
    "blur": (500, {"cpu": 1, "memory": 500}),
    "train": (100, {"cpu": 2, "gpu": 1}),
    "score": (300, {"cpu": 1}),
}


def work(n: int, again: int) -> None:
    """Sleep for 0.1 to 0.5 seconds; fail the first attempt of every 50th function."""
    time.sleep(0.1 + 0.01 * (n % 40))
    if n % 50 == again and handoff.current().attempt == 1:
        raise ValueError(f"{n} failed")


def large_dag(functions: int) -> DAG:
    dag = DAG("large")
    kinds = [(code, cost) for code, (share, cost) in CODES.items() for _ in range(share)]
    for n in range(functions):
        code, cost = kinds[n * 7 % len(kinds)]
        dag.add_function(
            Function(f"{code}-{n}", code=work, extra_args=[n, 0], cost=cost, retry=RetryPolicy(max_retries=3))
        )
    return dag


def kilobytes_of(kind: str, *content: Any) -> float:
    """Return the size of a message to the browser in kB."""
    message = Protocol().create(kind, *content)
    return (len(message.content_json) + sum(len(b.to_bytes()) for b in message.buffers)) / 1000


class Browser:
    """Stands for a browser: counts the bytes of the document and of its changes."""

    def __init__(self, plugin: Any) -> None:
        self.plugin = plugin
        self.collecting = 0.0
        self._changes: list[Any] = []
        self.document = Document()
        self.page = dashboard.fill(self.document, self.read)
        self.document.on_change(self._changes.append)

    def read(self, run_id: str | None) -> Any:
        """Collect the data of the page."""
        begin = time.thread_time()
        data = PageSource(self.plugin).read(run_id)
        self.collecting = time.thread_time() - begin
        return data

    def update(self) -> tuple[float, float, float]:
        """Update the page: return its kB, and the ms to collect and to draw the data."""
        self._changes.clear()
        begin = time.thread_time()
        self.page.update()
        took = time.thread_time() - begin
        size = kilobytes_of("PATCH-DOC", list(self._changes)) if self._changes else 0.0
        return size, 1000 * self.collecting, 1000 * (took - self.collecting)


def main(nodes: int = 50, functions: int = 10_000, updates: int = 10) -> None:
    shapes = {
        f"node{n:02d}": {"cpu": 4, "memory": 16_000, **({"gpu": 2} if n % 5 == 0 else {})}
        for n in range(nodes)
    }
    with handoff.local_cluster(shapes, processes=False) as cluster, Client(cluster) as client:
        run = handoff.submit(large_dag(functions), client)
        plugin = cluster.scheduler.plugins["handoff"]
        while plugin.runs[run.id].info(time.time()).counts.get("finished", 0) < functions // 5:
            time.sleep(0.2)

        async def call(function: Any) -> Any:
            return function()

        browser = client.sync(call, lambda: Browser(plugin))
        first = kilobytes_of("PULL-DOC-REPLY", "request", browser.document)
        rows = []
        for _ in range(updates):
            time.sleep(1)
            rows.append(client.sync(call, browser.update))
        kilobytes, collect, draw = ([row[i] for row in rows] for i in range(3))
        data = len(json.dumps(PageSource(plugin).read()))
        print(f"{nodes} nodes, {functions:,d} functions")
        print(f"page: {first:.0f} kB at first; /handoff.json: {data / 1000:.0f} kB")
        print(f"update: {statistics.median(kilobytes):.0f} kB, at most {max(kilobytes):.0f} kB")
        print(f"collecting: {statistics.median(collect):.1f} ms, at most {max(collect):.1f} ms")
        print(f"drawing: {statistics.median(draw):.1f} ms, at most {max(draw):.1f} ms")
        run.cancel()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
