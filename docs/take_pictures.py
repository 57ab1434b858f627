"""Take the pictures of docs/appearance.md: README, front page, notebook and dashboard.

    tox -e docs && python docs/take_pictures.py

Needs ``pip install -e '.[test,docs]'``, Chromium and its driver (on Debian: ``apt-get install chromium
chromium-driver``). Writes docs/images/appearance/.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, Scheduler, SpecCluster, Worker
from markdown_it import MarkdownIt
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import handoff_dask as handoff
from handoff_dask import DAG, Function, RetryPolicy

DOCS = Path(__file__).parent
HTML = DOCS / "_build" / "html"
PICTURES = DOCS / "images" / "appearance"

#: The README, roughly as hosting sites for code show it.
README = """<!doctype html><html><head><meta charset="utf-8"><base href="{base}/"><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 sans-serif; max-width: 830px; margin: 32px auto; padding: 0 24px;
        background: light-dark(#ffffff, #0d1117); color: light-dark(#1f2328, #e6edf3); }}
a {{ color: light-dark(#0969da, #4493f8); }}  img {{ max-width: 100%; }}
h1, h2 {{ border-bottom: 1px solid light-dark(#d1d9e0, #3d444d); padding-bottom: .3em; }}
pre {{ background: light-dark(#f6f8fa, #151b23); padding: 16px; overflow: auto; border-radius: 6px; }}
code {{ font-size: 85%; }}
</style></head><body>{content}</body></html>"""


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("headless=new", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    if os.name == "posix" and os.getuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root in a sandbox
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def take(
    driver: Any, url: str, path: Path, scheme: str, width: int, height: int, settle: float = 1.0
) -> None:
    """Write a picture of the upper ``height`` pixels of a page, in a colour scheme, to ``path``."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    driver.set_window_size(width, height)
    driver.get(url)
    time.sleep(settle)
    path.parent.mkdir(exist_ok=True)
    driver.save_screenshot(str(path))
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
    print(path.relative_to(DOCS))


# ---------------------------------------------------------------------- a cluster with something to see


def use_memory(megabytes: int) -> bytes:
    """Fill some memory, so that the dashboard has something to measure."""
    return b"x" * (megabytes * 2**20)


def clean(n: int) -> int:
    table = use_memory(20 + 10 * (n % 3))  # noqa: F841 - held until the end
    time.sleep(0.3 + 0.1 * (n % 5))
    return n


def train(*rows: int, flaky: bool) -> int:
    model = use_memory(150)  # noqa: F841 - held until the end
    time.sleep(1.5)
    if flaky and handoff.current().attempt == 1:
        raise MemoryError("out of GPU memory")
    return sum(rows)


def evaluate(*scores: int) -> int:
    time.sleep(0.5)
    return sum(scores)


def survey() -> DAG:
    dag = DAG("survey")
    for n in range(60):
        dag.add_function(Function(("clean", n), clean, extra_args=[n], cost={"cpu": 1, "memory": 2_000}))
    for n in range(20):
        inputs = [("clean", 3 * n + i) for i in range(3)]
        retry = RetryPolicy(max_retries=2)
        dag.add_function(
            Function(
                ("train", n),
                train,
                args=inputs,
                extra_kwargs={"flaky": n == 1},
                cost={"cpu": 2, "gpu": 1, "memory": 6_000},
                retry=retry,
            )
        )
    dag.add_function(Function("evaluate", evaluate, args=[("train", n) for n in range(20)], cost={"cpu": 1}))
    return dag


def nightly() -> DAG:
    dag = DAG("nightly")
    for n in range(12):
        dag.add_function(Function(n, clean, extra_args=[n], cost={"cpu": 4, "memory": 20_000}))
    return dag


@contextmanager
def dashboard() -> Iterator[str]:
    """Run two DAGs, and return the address of the page."""
    nodes = {
        "gpu1": {"cpu": 8, "memory": 32_000, "gpu": 2},
        "big": {"cpu": 8, "memory": 64_000},
        "small": {"cpu": 2, "memory": 8_000},
    }
    options = {"memory_limit": 0, "dashboard": False, "protocol": "inproc"}
    scheduler = {"protocol": "inproc", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
    with (
        SpecCluster(
            workers={
                name: {
                    "cls": Worker,
                    "options": {**options, "name": name, "nthreads": n["cpu"], "resources": n},
                }
                for name, n in nodes.items()
            },
            scheduler={"cls": Scheduler, "options": scheduler},
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        runs = [
            handoff.submit(survey(), client, fail_fast=False),
            handoff.submit(nightly(), client, priority=1),
        ]
        time.sleep(6)
        yield f"http://127.0.0.1:{cluster.scheduler.http_server.port}/handoff?run={runs[0].id}"
        for run in runs:
            run.cancel()


def main() -> None:
    readme = HTML / "readme.html"
    content = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render((DOCS.parent / "README.md").read_text())
    )
    readme.write_text(README.format(base=DOCS.parent.as_uri(), content=content))
    with browser() as driver:
        for scheme in ("light", "dark"):
            take(driver, readme.as_uri(), PICTURES / f"readme-{scheme}.png", scheme, 900, 1100)
            take(driver, (HTML / "index.html").as_uri(), PICTURES / f"front-{scheme}.png", scheme, 1280, 1000)
            notebook = (HTML / "notebooks" / "getting_started.html").as_uri() + "#a-dag"
            take(driver, notebook, PICTURES / f"notebook-{scheme}.png", scheme, 1280, 1000)
        with dashboard() as page:  # Dask's dashboard is always light
            take(driver, page, PICTURES / "dashboard.png", "light", 1200, 1500, settle=4)
    readme.unlink()


if __name__ == "__main__":
    main()
