"""The command as a process: exit codes, output streams and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import psutil
import pytest
from distributed import Client
from helpers import until

import handoff_dask as handoff
from handoff_dask._cli.main import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "handoff_dask"]


PROCESSES = ("--nodes", "nodes.yaml", "--processes")
LOCAL_NODES = [
    (),
    pytest.param(("--nodes", "nodes.yaml"), marks=pytest.mark.slow),
    pytest.param(PROCESSES, marks=pytest.mark.slow),
]


def environment(**more):
    # The process starts in another directory, and must import the package under test.
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def call(folder, *arguments, command=COMMAND, **more):
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=100,
    )


#: One command for each exit code in every test run; CI runs the others, too.
EXIT_CODES = [
    (("run", "pipeline:fine", "--nodes", "nodes.yaml"), 0),
    (("run", "pipeline:failing"), 1),
    (("run", "pipeline:invalid"), 2),
    (("run", "pipeline:greedy"), 3),
    (("nodes", "--scheduler", "tcp://127.0.0.1:1", "--connect-timeout", "0.3"), 4),
    *(
        pytest.param(arguments, code, marks=pytest.mark.slow)
        for arguments, code in [
            (("run", "pipeline:fine", "--nodes", "nodes.yaml", "--processes"), 0),
            (("run", "pipeline.py:fine", "--nodes", "nodes.yaml", "--processes"), 0),
            (("run", "pipeline:fine", "--nonsense"), 2),
            (("demo",), 0),
            (("--version",), 0),
            (("--help",), 0),
        ]
    ),
]


@pytest.mark.parametrize(
    ("arguments", "code"),
    EXIT_CODES,
    ids=lambda value: str(value) if isinstance(value, int) else " ".join(value),
)
def test_exit_codes(folder, arguments, code):
    done = call(folder, *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if code:
        assert "Error: " in done.stderr
        assert done.stderr.count("Error: ") == 1
        assert "Error: " not in done.stdout
    else:
        assert done.stderr == ""
        assert done.stdout


def test_json_of_a_process(folder):
    done = call(folder, "run", "pipeline:fine", "--nodes", "nodes.yaml", "--json")
    assert json.loads(done.stdout)["status"] == "finished"
    assert done.stderr == "imported\nprocessing\n"


LOUD = """
import os, subprocess, threading, time
from handoff_dask import DAG, Function

print("imported")


def loud():
    print("printed", flush=True)
    os.write(1, b"written\\n")
    subprocess.run(["echo", "echoed"])
    return 1


def endless():
    while True:
        print("printed", flush=True)


class Loud:
    def __repr__(self):
        print("represented")
        return "loud"


loud_dag = DAG("loud").add_function(Function("f", loud)).add_function(Function("g", Loud))
endless_dag = DAG("endless").add_function(Function("f", endless))
"""


@pytest.mark.parametrize("options", LOCAL_NODES)
def test_json_is_the_only_standard_output_whatever_functions_print(folder, options):
    (folder / "loud.py").write_text(LOUD)
    done = call(folder, "run", "loud.py:loud_dag", *options, "--json")
    assert json.loads(done.stdout)["functions"][0]["result"] == 1
    for text in ("imported", "printed", "written", "echoed"):
        assert text in done.stderr.splitlines()


def test_json_is_the_only_standard_output_even_if_functions_still_run(folder):
    (folder / "loud.py").write_text(LOUD)
    done = call(folder, "run", "loud.py:endless_dag", "--timeout", "0.3", "--json")
    assert json.loads(done.stdout)["error"]["type"] == "RunTimeoutError"
    assert done.returncode == 1


def test_the_installed_command_calls_main():
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["handoff-dask"]
    assert EntryPoint("handoff-dask", target, "console_scripts").load() is main


@pytest.mark.parametrize("options", LOCAL_NODES)
def test_ctrl_c(folder, options):
    """The signal goes to the command and all its child processes, as from a terminal."""
    process = started(folder, *options)
    try:
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "Interrupted.\n"
    assert time.monotonic() - began < 25, "running functions are not waited for"
    assert set(out.splitlines()) <= {"imported"}


@pytest.mark.parametrize("options", LOCAL_NODES)
def test_ctrl_c_ends_processes_started_by_functions(folder, options):
    (folder / "pipeline.py").write_text(
        "import subprocess, time\n"
        "from pathlib import Path\n"
        "from handoff_dask import DAG, Function\n"
        "def nap(seconds):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    Path('child').write_text(str(child.pid))\n"
        "    time.sleep(seconds)\n"
        "slow = DAG('slow').add_function(Function('nap', nap, extra_args=[60]))\n"
    )
    process = started(folder, *options)
    child = psutil.Process(int((folder / "child").read_text()))
    try:
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "Interrupted.\n")
    finally:
        process.kill()
    until(
        lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE,
        what="the child process has ended",
    )


DISPOSITIONS = """
import os, signal, subprocess, sys
from pathlib import Path
from handoff_dask import DAG, Function


def look():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    code += "; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()


def forked():
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, str(signal.getsignal(signal.SIGINT) is signal.default_int_handler).encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 100).decode()


def after_a_loss():
    if not Path("lost").exists():
        Path("lost").touch()
        os._exit(1)
    return look()


dag = DAG("dag").add_function(Function("started", look))
children = DAG("children").add_function(Function("started", look)).add_function(Function("forked", forked))
children.add_function(Function("after a loss", after_a_loss, args=[], node="node1"))
"""


@pytest.mark.parametrize("options", LOCAL_NODES)
def test_processes_started_by_functions_have_default_signal_handling(folder, options):
    (folder / "signals.py").write_text(DISPOSITIONS)
    which = "children" if "--processes" in options else "dag"
    done = call(folder, "run", f"signals.py:{which}", *options, "--json")
    assert done.returncode == 0, done.stderr
    results = {f["function"]: f["result"] for f in json.loads(done.stdout)["functions"]}
    assert results.pop("started") == ["True", "set()"]
    if which == "children":
        assert results == {"forked": "True", "after a loss": ["True", "set()"]}


def test_ctrl_c_while_connecting(folder):
    """A client that is interrupted while it connects can block the exit of the process forever."""
    code = (
        "import os, signal, threading\n"
        "from distributed import Client\n"
        "start = Client.start\n"
        "def interrupted(*args, **options):\n"
        "    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()\n"
        "    return start(*args, **options)\n"
        "Client.start = interrupted\n"
        "from handoff_dask._client import session\n"
        "session.check_answers = lambda address: None\n"  # would fail before a client is created
        "from handoff_dask._cli.main import main\n"
        "main()"
    )
    arguments = ("-c", code, "nodes", "--scheduler", "tcp://127.0.0.1:1")
    done = call(folder, *arguments, command=[sys.executable])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_ctrl_c_ends_the_run_on_the_cluster(folder):
    with (
        handoff.local_cluster({"node1": {"cpu": 1}}, processes=True) as cluster,
        Client(cluster, set_as_default=False),
    ):
        process = started(folder, "--scheduler", cluster.scheduler_address)
        try:
            (info,) = handoff.runs(cluster)
            assert info.status == "running"
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130
        until(lambda: [r.status for r in handoff.runs(cluster)] == ["cancelled"], what="the run is cancelled")
        assert handoff.runs(cluster)[0].error == "it was interrupted"


def started(folder, *options):
    """Start the command, and wait until the function of ``slow`` has begun."""
    source = (folder / "pipeline.py").read_text()
    begun = folder / "begun"
    line, mark = "    time.sleep(seconds)", f"    open({str(begun)!r}, 'w').close()"
    (folder / "pipeline.py").write_text(source.replace(line, f"{mark}\n{line}"))
    process = subprocess.Popen(
        [*COMMAND, "run", "pipeline.py:slow", *options],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: begun.exists() or process.poll() is not None, 60, "the function has begun")
    assert process.poll() is None, process.communicate()
    return process


def test_a_closed_pipe(folder):
    """``handoff-dask show ... | head -0``."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "show", "pipeline.py:fine", "--mermaid"],
            cwd=folder,
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert done.stderr == "imported\n"
    assert done.returncode == 0


def test_validate_imports_no_heavy_packages(folder):
    code = (
        "import sys; from handoff_dask._cli.main import cli\n"
        "cli(['validate', 'pipeline.py:fine'], standalone_mode=False)\n"
        "print(*{'networkx', 'graphviz', 'pandas', 'bokeh', 'pyarrow'}.intersection(sys.modules))"
    )
    done = call(folder, "-c", code, command=[sys.executable])
    assert done.stdout.splitlines()[2:] == [""], done
