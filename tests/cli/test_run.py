"""``run``, ``nodes``, ``runs`` and ``demo``, called in this process."""

from __future__ import annotations

import re
import socket
import threading
import time

import pytest
from distributed import Client

import handoff_dask as handoff
from handoff_dask._model.runinfo import RunInfo


@pytest.fixture
def address(folder):
    """The address of a cluster of processes, reachable from other processes."""
    nodes = {"node1": {"cpu": 4, "memory": 8192}, "node2": {"cpu": 2, "memory": 4096, "gpu": 1, "seat": 2}}
    with handoff.local_cluster(nodes, processes=True) as cluster:
        yield cluster.scheduler_address


def test_run_on_local_nodes(call):
    out, err = call("run", "pipeline:fine", "--nodes", "nodes.yaml")
    lines = out.splitlines()
    assert lines[:2] == ["imported", "processing"]
    assert re.fullmatch(r"Run [0-9a-f]{16} of DAG 'fine' finished in .* m?s: 2 functions\.", lines[2])
    columns = r"process +finished +node2 +1 +\S+ m?s +\S+ m?s +\S+ MB +'Processed \[Loaded: data.txt\]'$"
    assert re.match(columns, lines[-1])
    assert err == ""


def test_run_on_this_machine(call):
    assert "embedded" in call("run", "pipeline:pairs")[0]


def test_json_is_the_only_standard_output(call, call_json):
    found = call_json("run", "pipeline:fine", "--nodes", "nodes.yaml")
    assert (found["dag_id"], found["status"]) == ("fine", "finished")
    load, process = found["functions"]
    assert load["result"] == "Loaded: data.txt"
    assert process["result"] == "Processed [Loaded: data.txt]"
    assert process["node"] == "node2"
    assert process["cost"] == {"cpu": 2, "gpu": 1}
    assert [a["outcome"] for a in process["attempts"]] == ["finished"]
    out, err = call("run", "pipeline.py:fine", "--nodes", "nodes.yaml", "--json")
    assert out.startswith("{")
    assert err == "imported\nprocessing\n"


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ((), {"load", "process"}),
        (("all",), {"load", "process"}),
        (("sinks",), {"process"}),
        (("load",), {"load"}),
        (("load", "process"), {"load", "process"}),
    ],
)
def test_keep(call_json, keep, kept):
    options = [option for id in keep for option in ("--keep", id)]
    found = call_json("run", "pipeline:fine", "--nodes", "nodes.yaml", *options)
    assert {f["function"] for f in found["functions"] if "result" in f} == kept


def test_keep_an_id_that_is_not_text(call_json, call):
    found = call_json("run", "pipeline:pairs", "--keep", "('load', 1)")
    assert [f.get("result") for f in found["functions"]] == ["Loaded: 1", None]
    _, err = call("run", "pipeline:pairs", "--keep", "load", code=2)
    assert "has no function 'load'; ids that begin like it: ('load', 1)" in err


def test_targets(call, call_json):
    found = call_json("run", "pipeline:fine", "--nodes", "nodes.yaml", "--target", "load")
    assert [f["function"] for f in found["functions"]] == ["load"]
    found = call_json("simulate", "pipeline:pairs", "--nodes", "nodes.yaml", "--target", "('load', 1)")
    assert [f["function"] for f in found["functions"]] == [["load", 1]]
    assert "process" not in call("show", "pipeline:fine", "--target", "load")[0]
    _, err = call("run", "pipeline:fine", "--target", "laod", code=2)
    assert "--target: DAG 'fine' has no function 'laod'; did you mean 'load'?" in err


@pytest.mark.parametrize("retries", [0, 2])
def test_a_run_that_fails(call, call_json, retries):
    out, err = call("run", "pipeline:failing", "--max-retries", str(retries), code=1)
    assert re.search(rf"^fail +failed +embedded +{retries + 1} ", out, re.MULTILINE)
    assert re.search(r"^after +cancelled", out, re.MULTILINE)
    assert err.count("ValueError('no luck')") == 1
    assert f"after {retries + 1} attempt" in err
    assert "Traceback" not in err
    assert err.endswith("\n--debug shows the traceback.\n")
    found = call_json("run", "pipeline:failing", "--max-retries", str(retries), code=1)
    assert found["status"] == "failed"
    assert found["error"]["type"] == "FunctionFailedError"
    assert len(found["functions"][0]["attempts"]) == retries + 1


def test_debug_shows_where_the_function_failed(call):
    _, err = call("run", "pipeline:failing", "--debug", code=1)
    assert err.count('raise ValueError("no luck")') == 1
    assert "--debug shows" not in err


def test_a_function_that_fits_on_no_node(call, call_json):
    out, err = call("run", "pipeline:greedy", "--nodes", "nodes.yaml", code=3)
    assert out == "imported\n"
    assert "nearest node 'node1'" in err
    assert "or add a node that offers enough to nodes.yaml." in err
    assert "wait_for_nodes" not in err
    assert call_json("run", "pipeline:greedy", code=3)["error"]["type"] == "AllocationError"


@pytest.mark.parametrize(("option", "times"), [("--json", 1), ("--progress", 1), ("--no-progress", 0)])
def test_awaited_nodes_are_logged_unless_progress_is_off(call, option, times):
    _, err = call("run", "pipeline:greedy", "--nodes", "nodes.yaml", "--wait-for-nodes", "2", option, code=3)
    # The first update of the progress comes after a moment, which is longer on a busy machine.
    assert len(re.findall(r"waiting for a node with cpu 10000 \([012] of 2 s\)", err)) == times


REMEDIES = {
    "greedy": "Lower the cost, or add a node that offers enough to nodes.yaml.",
    "licensed": (
        "Add a node that offers 'licence' to nodes.yaml, or declare it as a limit (--limit licence=1) if the"
        " whole cluster shares it."
    ),
    "pinned": "Correct the pin (node=), or add a node of that name to nodes.yaml.",
}


@pytest.mark.parametrize("command", ["run", "simulate"])
@pytest.mark.parametrize("dag", REMEDIES)
def test_remedies_name_the_file_of_nodes(call, command, dag):
    _, err = call(command, f"pipeline:{dag}", "--nodes", "nodes.yaml", code=3)
    assert err.splitlines()[-1] == REMEDIES[dag]


def test_remedies_on_this_machine_name_other_nodes(call):
    _, err = call("run", "pipeline:greedy", code=3)
    assert err.splitlines()[-1] == (
        "Lower the cost, or use nodes that offer enough (--nodes FILE or --scheduler ADDRESS)."
    )


def test_remedies_on_a_cluster_remain(call, address):
    _, err = call("run", "pipeline:greedy", "--scheduler", address, code=3)
    assert "`dask worker --resources ...`), or pass --wait-for-nodes SECONDS" in err


@pytest.mark.parametrize("command", ["run", "simulate"])
def test_limits(call, command):
    arguments = (command, "pipeline:licensed", "--nodes", "nodes.yaml", "--limit")
    call(*arguments, "licence=2")
    call(*arguments, "licence=2.5", "--limit", "memory=4GB")
    _, err = call(*arguments, "licence=1", code=3)
    assert err.splitlines()[-1] == "Lower the cost, or raise the limit (--limit)."
    for wrong in ("licence", "=1", "licence=", "licence=-1", "licence=many", "max_concurrency=1"):
        _, err = call(*arguments, wrong, code=2)
        assert "licence" in err or "NAME=AMOUNT" in err or "max_concurrency" in err
    assert "two amounts" in call(*arguments, "licence=1", "--limit", "licence=2", code=2)[1]


def test_an_invalid_dag_starts_no_cluster(call, monkeypatch):
    monkeypatch.setattr("handoff_dask._cli.connect.local_cluster", None)
    assert "2 problems" in call("run", "pipeline:invalid", "--nodes", "nodes.yaml", code=2)[1]


def test_a_run_that_times_out_is_not_waited_for(call):
    began = time.monotonic()
    _, err = call("run", "pipeline:slow", "--nodes", "nodes.yaml", "--timeout", "0.2", code=1)
    assert "exceeded its timeout of 0.2 s" in err
    assert time.monotonic() - began < 20


def test_progress_goes_to_standard_error(call):
    out, err = call("run", "pipeline:pairs", "--progress")
    assert "2 of 2 finished" in err
    assert "2 of 2 finished" not in out
    assert call("run", "pipeline:pairs", "--no-progress")[1] == ""
    assert call("run", "pipeline:pairs")[1] == "", "not a terminal"


def test_checkpoints(call, call_json, folder):
    first = call_json("run", "pipeline.py:pairs", "--checkpoint", "results")
    assert first["restored"] == []
    second = call_json("run", "pipeline.py:pairs", "--checkpoint", "results")
    assert second["restored"] == [["load", 1], "end"]
    assert (
        "2 results loaded from checkpoints." in call("run", "pipeline.py:pairs", "--checkpoint", "results")[0]
    )


def test_history(call, call_json, folder):
    call("run", "pipeline:pairs", "--history", "h.db")
    call("run", "pipeline:failing", "--history", "h.db", code=1)
    out, _ = call("runs", "--history", "h.db")
    head, failed, finished = (line.split() for line in out.splitlines())
    assert head == ["run", "DAG", "status", "submitted", "elapsed", "finished", "reason"]
    assert failed[1:3] == ["failing", "failed"]
    assert " ".join(failed).endswith(" 0 of 2 function 'fail' failed: ValueError('no luck')")
    assert finished[1:3] == ["pairs", "finished"]
    assert finished[-3:] == ["2", "of", "2"]
    found = call_json("runs", "--history", "h.db")
    assert [(info["dag_id"], info["counts"]) for info in found] == [
        ("failing", {"failed": 1, "cancelled": 1}),
        ("pairs", {"finished": 2}),
    ]
    assert "no luck" in found[0]["error"]
    out, _ = call("runs", "--history", "h.db", "--limit", "1")
    assert out.splitlines()[-1] == "... and 1 more"
    prefix = next(found[0]["id"][:n] for n in range(1, 99) if found[0]["id"][:n] != found[1]["id"][:n])
    assert call_json("runs", prefix, "--history", "h.db") == call_json(
        "runs", found[0]["id"], "--history", "h.db"
    )
    functions = call_json("runs", found[0]["id"], "--history", "h.db")
    assert [f["function"] for f in functions] == ["fail", "after"]
    assert "embedded" in call("runs", found[1]["id"], "--history", "h.db")[0]
    _, err = call("runs", "nosuchrun", "--history", "h.db", code=2)
    assert found[0]["id"] in err


def test_a_prefix_of_run_ids_must_be_unique(call, folder):
    with handoff.History("h.db") as history:
        for id in ("ab1", "ab2", "ab22"):
            history._write(RunInfo(id, "d", "cancelled", None, 1.0, 2.0, 1.0, {}, error="it\nfailed"), ())
    _, err = call("runs", "ab", "--history", "h.db", code=2)
    assert "3 runs begin with 'ab': ab22, ab2, ab1" in err
    assert "0 functions" in call("runs", "ab1", "--history", "h.db")[0]
    assert "0 functions" in call("runs", "ab2", "--history", "h.db")[0], "an id is not a prefix"
    assert "known runs: 'ab22'" in call("runs", "b", "--history", "h.db", code=2)[1]
    assert call("runs", "--history", "h.db")[0].splitlines()[1].endswith("it ...")


def test_a_file_that_is_not_a_history(call):
    for arguments in (("run", "pipeline:pairs"), ("runs",)):
        _, err = call(*arguments, "--history", "pipeline.py", code=2)
        assert "pipeline.py" in err


def test_no_runs_in_a_history(call, folder):
    handoff.History(folder / "h.db").close()
    assert call("runs", "--history", "h.db") == ("", "No runs in h.db.\n")


def test_a_cluster(call, call_json, address):
    assert call_json("nodes", "--scheduler", address) == {
        "node1": {"cpu": 4, "memory": 8192},
        "node2": {"cpu": 2, "memory": 4096, "gpu": 1, "seat": 2},
    }
    lines = [line.split() for line in call("nodes", "--scheduler", address)[0].splitlines()]
    assert lines == [
        ["node", "cpu", "memory", "(MB)", "gpu", "seat"],
        ["node1", "4", "8192"],
        ["node2", "2", "4096", "1", "2"],
    ]
    assert call("runs", "--scheduler", address) == ("", f"No runs on {address}.\n")
    # The file is not importable on the nodes: its functions must be sent.
    ran = call_json("run", "pipeline.py:fine", "--scheduler", address)
    assert ran["functions"][1]["node"] == "node2"
    (info,) = call_json("runs", "--scheduler", address)
    assert (info["id"], info["status"]) == (ran["run_id"], "finished")
    functions = call_json("runs", ran["run_id"][:8], "--scheduler", address)
    assert [(f["function"], f["node"]) for f in functions] == [
        (f["function"], f["node"]) for f in ran["functions"]
    ]
    assert "pairs" not in call("runs", "--scheduler", address)[0]
    _, err = call("run", "pipeline:fine", "--scheduler", address, code=1)
    assert "The nodes cannot import 'pipeline': install it there, or" in err
    with Client(address, set_as_default=False) as client:
        assert len(client.scheduler_info()["workers"]) == 2, "the cluster is unchanged"


@pytest.mark.parametrize("command", [("nodes",), ("runs",), ("run", "pipeline:fine")])
def test_no_cluster(call, command):
    _, err = call(*command, "--scheduler", "tcp://127.0.0.1:1", "--connect-timeout", "0.3", code=4)
    assert "no scheduler answers at 'tcp://127.0.0.1:1'" in err
    _, err = call(*command, "--scheduler", "nonsense", code=2)
    assert err.startswith("Error: --scheduler: 'nonsense' is not the address of a scheduler")


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_is_not_a_scheduler(call, greeting):
    """A dashboard, for example, waits for a request, or sends bytes that Dask takes for a message length."""
    accepted = []

    def answer(server):
        accepted.append(server.accept()[0])
        accepted[0].sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer, args=[server])
        answering.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        _, err = call("nodes", "--scheduler", address, "--connect-timeout", "0.5", code=4)
        answering.join()
        accepted[0].close()
    assert time.monotonic() - began < 20
    assert f"--scheduler: the server at '{address}' is not a Dask scheduler" in err
    assert "8786" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "pipeline:fine", "--nodes", "nodes.yaml", "--scheduler", "tcp://127.0.0.1:1"),
        ("run", "pipeline:fine", "--processes", "--scheduler", "tcp://127.0.0.1:1"),
        ("run", "pipeline:fine", "--processes"),
        ("run", "pipeline:fine", "--max-retries", "-1"),
        ("run", "pipeline:fine", "--strategy", "nonsense"),
        ("run", "pipeline:fine", "--nonsense"),
        ("nodes",),
        ("runs",),
        ("runs", "--scheduler", "tcp://127.0.0.1:1", "--history", "pipeline.py"),
        ("nonsense",),
    ],
)
def test_wrong_usage(call, arguments):
    _, err = call(*arguments, code=2)
    assert "Error: " in err
    assert "Traceback" not in err


def test_unexpected_errors_have_their_own_exit_code(call, monkeypatch):
    def execute(*args, **options):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("handoff_dask._cli.run.execute", execute)
    _, err = call("run", "pipeline:fine", code=70)
    assert "ZeroDivisionError: a bug" in err
    assert "--debug" in err


def test_demo(call):
    out, err = call("demo")
    assert err == ""
    assert re.search(r"process +finished +gpu-node .*'Processed \[Loaded: data.txt\] on GPU'", out)
    assert "'train'" in out
