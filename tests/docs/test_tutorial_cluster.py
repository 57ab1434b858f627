"""Follow the last step of the tutorial to the letter: its commands, its program, and their output."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import until

import handoff_dask as handoff

TUTORIAL = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
SECTION = TUTORIAL.partition("## A real cluster\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^```bash\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)


def captioned(caption: str) -> str:
    """Return the body of the code block with this caption."""
    block = re.search(rf"^:caption: {caption}\n\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    assert block is not None, caption
    return block.group(1)


class Terminals:
    """The processes that run in the reader's terminals."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        # Commands come from the environment that runs the tests, as if it were activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self.environment = {**os.environ, "PATH": path, "COLUMNS": "200"}

    def arguments(self, command: str) -> list[str]:
        words = shlex.split(command.replace("8786", self.port))
        if words[0] == "dask":
            words = [sys.executable, "-m", *words, "--no-dashboard"]
            if "scheduler" in words:
                words += ["--port", self.port]
        elif words[0] == "handoff-dask":
            words = [sys.executable, "-m", "handoff_dask", *words[1:]]
        return words

    def start(self, command: str) -> subprocess.Popen[str]:
        with open(self.folder / f"{len(self.processes)}.log", "w") as log:
            process = subprocess.Popen(
                self.arguments(command), cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments(command),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def stop(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                self.stop(process)


@pytest.fixture
def terminals(tmp_path):
    terminals = Terminals(tmp_path)
    yield terminals
    terminals.stop_all()


@pytest.mark.slow
def test_real_cluster_step(terminals):
    scheduler, node1, node2, program, licensed, list_and_run = COMMANDS
    address = f"tcp://127.0.0.1:{terminals.port}"
    terminals.start(scheduler)

    def wait_for_nodes(*names: str) -> None:
        def joined() -> bool:
            try:
                return set(handoff.discover_nodes(address)) == set(names)
            except handoff.ClusterNotReadyError:
                return False

        until(joined, 60, f"the nodes are {names}")

    terminals.start(node1)
    second = terminals.start(node2)
    wait_for_nodes("node1", "node2")

    (terminals.folder / "client.py").write_text(captioned("client.py").replace("8786", terminals.port))
    failed = terminals.run(program)
    assert failed.returncode == 1
    assert failed.stderr.endswith(captioned("the error message"))

    terminals.stop(second)
    wait_for_nodes("node1")
    terminals.start(licensed)
    wait_for_nodes("node1", "node2")
    completed = [terminals.run(command) for command in list_and_run.splitlines()]
    assert [done.returncode for done in completed] == [0, 0], completed
    assert "".join(done.stdout for done in completed) == captioned("the output")
