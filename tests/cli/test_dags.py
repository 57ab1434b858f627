"""``validate``, ``show`` and ``simulate``, and the loading of DAGs and nodes."""

from __future__ import annotations

import pytest

import handoff_dask as handoff


@pytest.mark.parametrize(
    "target",
    [
        "pipeline:fine",
        "pipeline:build",
        "pipeline.py:fine",
        "./pipeline.py:build",
    ],
)
def test_validate_a_valid_dag(call, target):
    out, err = call("validate", target)
    assert out == "imported\nDAG 'fine' is valid: 2 functions; resources: cpu, gpu, memory.\n"
    assert err == ""


def test_validate_lists_all_problems(call):
    out, err = call("validate", "pipeline:invalid", code=2)
    assert "valid" not in out
    assert err.startswith("Error: DAG 'invalid' has 2 problems:\n")
    assert "'missing'" in err
    assert "must not be negative" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("pipeline", "write MODULE:NAME"),
        ("pipeline:", "write MODULE:NAME"),
        (":dag", "write MODULE:NAME"),
        ("no_such_module:dag", "no module 'no_such_module' in the current directory or in "),
        ("no_such_module.sub:dag", "no module 'no_such_module' in the current directory or in "),
        ("no_such_file.py:dag", "no file 'no_such_file.py'"),
        ("pipelin.py:dag", "no file 'pipelin.py'; did you mean 'pipeline.py'?"),
        ("nowhere/pipeline.py:dag", "no file 'nowhere/pipeline.py'"),
        ("pipeline:nothing", "Its DAGs: fine, failing, invalid"),
        ("pipeline:number", "neither a DAG nor a function that returns one: 3"),
        ("pipeline:broken", "RuntimeError: cannot be built\n  at "),
        ("pipeline:load", "missing 1 required positional argument"),
        ("pipeline:time.time", "must return a DAG, but returned "),
    ],
)
def test_targets_that_are_not_dags(call, target, message):
    _, err = call("validate", target, code=2)
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("target", ["wrong:dag", "wrong.py:dag"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_thing", "No module named 'no_such_thing'\n  at "),
        ("\n1 / 0", "ZeroDivisionError: division by zero\n  at "),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("def f(:", "SyntaxError: "),
    ],
)
def test_a_module_that_fails_to_import(call, folder, target, source, message):
    (folder / "wrong.py").write_text(source)
    _, err = call("validate", target, code=2)
    assert message in err
    assert "wrong.py" in err or "SystemExit" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(call):
    for arguments in (("validate", "pipeline:broken", "--debug"), ("--debug", "validate", "pipeline:broken")):
        _, err = call(*arguments, code=2)
        assert "Traceback" in err
        assert 'raise RuntimeError("cannot be built")' in err
        assert err.rstrip().splitlines()[-2].startswith("Error: ")


def test_dataclasses_in_a_file(call, folder):
    (folder / "data.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from handoff_dask import DAG\n"
        "@dataclass\n"
        "class Point:\n"
        "    x: int\n"
        "    n: ClassVar[int] = 0\n"
        "Point(1)\n"
        "dag = DAG('data')\n"
    )
    call("validate", "data.py:dag")


# ---------------------------------------------------------------------- show


def test_show(call):
    lines = call("show", "pipeline:fine")[0].splitlines()[1:]
    assert lines[0] == "DAG 'fine': 2 functions"
    assert [line.split() for line in lines[2:]] == [
        ["function", "code", "dependencies", "cost", "node"],
        ["load", "load", "cpu", "1,", "memory", "1000"],
        ["process", "process", "load", "cpu", "2,", "gpu", "1"],
    ]


def test_an_invalid_dag_can_be_shown(call):
    assert "cpu -1" in call("show", "pipeline:invalid")[0]


def test_show_mermaid_prints_nothing_else(call, monkeypatch):
    out, err = call("show", "pipeline.py:fine", "--mermaid")
    assert out.startswith("flowchart TD\n")
    assert out.count("-->") == 1
    assert err == "imported\n"


def test_show_draws_to_a_file(call, folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(handoff.DAG, "visualize", lambda dag, name: drawn.append((dag.id, name)))
    call("show", "pipeline:fine", "--output", "fine.svg")
    assert drawn == [("fine", "fine.svg")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ImportError("graphviz is needed for this: pip install 'handoff-dask[display]'"),
            "handoff-dask[display]",
        ),
        (type("ExecutableNotFound", (RuntimeError,), {})("dot"), "install Graphviz"),
        (ValueError("something else"), "--output fine.xyz: something else"),
    ],
)
def test_drawing_errors(call, monkeypatch, error, message):
    def visualize(dag, name):
        raise error

    monkeypatch.setattr(handoff.DAG, "visualize", visualize)
    _, err = call("show", "pipeline:fine", "-o", "fine.xyz", code=2)
    assert message in err


def test_unknown_format_names_the_suffix(call):
    _, err = call("show", "pipeline:fine", "-o", "fine.xyz", code=2)
    assert "--output fine.xyz: Graphviz has no format .xyz: use .svg, .png or .pdf" in err


@pytest.mark.parametrize("options", [("--mermaid", "-o", "a.svg"), ("-o", "noformat")])
def test_wrong_usage_of_show(call, options):
    call("show", "pipeline:fine", *options, code=2)


# ---------------------------------------------------------------------- simulate


def test_nodes_with_memory_as_a_string(call, folder):
    (folder / "bytes.yaml").write_text("a: {cpu: 4, memory: 8GB}\nb: {cpu: 2, memory: 4096 MiB, gpu: 1}\n")
    out, _ = call("simulate", "pipeline:fine", "--nodes", "bytes.yaml")
    assert "2 functions on 2 nodes" in out
    (folder / "bytes.yaml").write_text("a: {cpu: 1, memory: 4 gigs}\n")
    _, err = call("simulate", "pipeline:fine", "--nodes", "bytes.yaml", code=2)
    assert (
        "bytes.yaml: node 'a': memory must be a number of MB (2**20 bytes) or a string with a unit, such as"
        ' "4GB" or "512 MiB", not \'4 gigs\''
    ) in " ".join(err.split())


def test_nodes_with_a_name_close_to_a_known_one(call, folder, caplog):
    (folder / "plural.yaml").write_text("a: {cpu: 4, memory: 8GB, gpu: 1}\nb: {cpus: 2, memory: 8GB}\n")
    with caplog.at_level("WARNING", "handoff_dask"):  # clusters of other tests silence pytest's handler
        call("simulate", "pipeline:fine", "--nodes", "plural.yaml")
    assert [r.getMessage() for r in caplog.records] == ["node 'b' offers 'cpus'; did you mean 'cpu'?"]


def test_simulate(call):
    lines = call("simulate", "pipeline:fine", "--nodes", "nodes.yaml", "--durations", "3")[0].splitlines()[1:]
    assert lines[:4] == [
        "DAG 'fine': 2 functions on 2 nodes, best_fit",
        "",
        "makespan     6 s",
        "lower bound  6 s  (critical path)",
    ]
    table = [line.split() for line in lines[5:]]
    assert table[0][:2] == ["node", "functions"]
    assert [row[0] for row in table[1:]] == ["node1", "node2"]
    assert sum(int(row[1]) for row in table[1:]) == 2


def test_simulate_says_which_durations_it_assumes(call, folder):
    arguments = ("simulate", "pipeline:pairs", "--nodes", "nodes.yaml")
    assumed = "Assuming that each function takes 1 s: --durations and --history set other durations."
    assert call(*arguments)[0].splitlines()[2] == assumed
    assert "Assuming" not in call(*arguments, "--durations", "1")[0]


def test_simulate_json(call_json):
    found = call_json("simulate", "pipeline:fine", "--nodes", "nodes.yaml")
    assert (found["dag_id"], found["makespan"], found["lower_bound"]) == ("fine", 2, 2)
    assert [(f["function"], f["started"], f["stopped"]) for f in found["functions"]] == [
        ("load", 0, 1),
        ("process", 1, 2),
    ]
    assert found["functions"][1]["node"] == "node2"
    assert found["utilisation"]["node2"]["gpu"] == 0.5


def test_simulate_with_limited_concurrency(call_json):
    at_once = call_json("simulate", "pipeline:pairs", "--nodes", "nodes.yaml", "--max-concurrency", "1")
    assert at_once["makespan"] == 2
    assert at_once["functions"][0]["function"] == ["load", 1]


def test_simulate_with_durations_from_a_history(call, call_json, folder):
    call("run", "pipeline:pairs", "--history", "h.db")
    found = call_json("simulate", "pipeline:pairs", "--nodes", "nodes.yaml", "--history", "h.db")
    assert 0 < found["makespan"] < 1
    _, err = call("simulate", "pipeline:slow", "--nodes", "nodes.yaml", "--history", "h.db", code=2)
    assert "durations has no entry for function 'nap'" in err


def test_simulate_a_function_that_fits_on_no_node(call):
    _, err = call("simulate", "pipeline:greedy", "--nodes", "nodes.yaml", code=3)
    assert "'a'" in err
    assert "nearest node 'node1'" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, column 2: invalid YAML while parsing a flow node: expected the node content"),
        ("node1: {cpu: 4}\nnode2: {cpu: 4\n", "line 3, column 1: invalid YAML while parsing a flow mapping"),
        ("node1: \x00", "invalid YAML"),
        ("", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("node1: 3", "node 'node1': its capacity must be a mapping"),
        ("node1: {cpu: -1}", "must not be negative"),
        ("node1: {cpu: many}", "cpu"),
        ("{}", "at least one node"),
        (b"\xff\xfe\xfa", "nodes.yaml"),
    ],
)
def test_invalid_nodes_files(call, folder, text, message):
    (folder / "nodes.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    _, err = call("simulate", "pipeline:fine", "--nodes", "nodes.yaml", code=2)
    assert err.startswith("Error: nodes.yaml: ")
    assert message in err


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--nodes", "no-such.yaml"),
        ("--nodes", "nodes.yaml", "--history", "no-such.db"),
        ("--nodes", "nodes.yaml", "--durations", "-1"),
        ("--nodes", "nodes.yaml", "--durations", "1", "--history", "nodes.yaml"),
        ("--nodes", "nodes.yaml", "--history", "pipeline.py"),
    ],
)
def test_wrong_usage_of_simulate(call, options):
    assert "Traceback" not in call("simulate", "pipeline:fine", *options, code=2)[1]
