"""The notebooks run as written and produce what their text promises."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = {
    "branching_dag",
    "capacity_planning",
    "from_dask_delayed",
    "getting_started",
    "image_processing",
    "numeric_pipeline",
}


def read(name):
    return nbformat.read(EXAMPLES / f"{name}.ipynb", nbformat.NO_CONVERT)


def execute(name, directory, facts, first=""):
    """Run a notebook, and evaluate an expression before the last cell closes the cluster.

    Parameters
    ----------
    name : str
    directory : path
    facts : str
        The expression.
    first : str
        Code to run before the first cell.

    Returns
    -------
    str
        The notebook's standard output.
    object
        The value of the expression ``facts``.
    """
    notebook = read(name)
    last = -1 if "cluster.close()" in notebook.cells[-1].source else len(notebook.cells)
    probe = nbformat.v4.new_code_cell(facts)
    notebook.cells.insert(last, probe)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    where = {"metadata": {"path": str(directory)}}
    client = NotebookClient(notebook, kernel_name="python3", timeout=60, startup_timeout=60, resources=where)
    client.execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert "".join(o.text for o in outputs if o.get("name") == "stderr") == ""
    printed = "".join(o.text for o in outputs if o.get("name") == "stdout")
    return printed, ast.literal_eval(probe.outputs[-1].data["text/plain"])


def test_every_notebook_is_tested_and_shown():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == NOTEBOOKS
    contents = (EXAMPLES.parent / "docs" / "notebooks" / "index.md").read_text().partition("{toctree}")[2]
    assert set(re.findall(r"^(\w+)$", contents, re.MULTILINE)) == NOTEBOOKS


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_notebook_has_no_stored_output(name):
    """Stored outputs go stale, and would change in every diff. The build of the documentation adds them."""
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_getting_started(tmp_path):
    printed, (results, allocations) = execute(
        "getting_started", tmp_path, "dict(result.results), result.allocations"
    )
    assert results == {
        "load": list(range(101)),
        "train": 50.0,
        "report": "mean 50.0 of 101 numbers",
    }
    assert allocations["train"] == "lab"
    assert set(allocations) == set(results)
    lines = printed.splitlines()
    assert "lab {'cpu': 2, 'memory': 4096, 'gpu': 1}" in lines
    assert "mean 50.0 of 101 numbers" in lines
    assert any(line.startswith("train    on lab ") for line in lines)
    assert "asked: gpu 4; nearest node 'lab' has gpu 1" in printed


#: Lets the branches meet, which they do only if they run at the same time: on a busy machine, one of them may
#: start so late that the others' half seconds are over.
MEET = """
import threading, time
meeting = threading.Barrier(3, timeout=30)
def meet_and_sleep(seconds, sleep=time.sleep):
    if seconds == 0.5:
        meeting.wait()
    sleep(seconds)
time.sleep = meet_and_sleep
"""


@pytest.mark.slow  # the documentation runs it, too
def test_branching_dag(tmp_path):
    printed, (took, started, stopped) = execute(
        "branching_dag",
        tmp_path,
        "took, [a.started for a in attempts], [a.stopped for a in attempts]",
        MEET,
    )
    assert "mean 16, spread 9, warmest on We\n" in printed
    assert max(started) < min(stopped), "all three at the same time"
    assert took == max(stopped) - min(started) >= 0.5
    assert "sold failed 2 times: nobody answers\nand yet: mean 16, spread 9, warmest on We\n" in printed
    assert printed.count(" --> ") == 6


@pytest.mark.slow
def test_image_processing(tmp_path):
    facts = """(
    result.allocations,
    {node: float(peak(node)) for node in nodes},
    list(result.results),
    {name: dag["smooth", name].cost["memory"] for name in PICTURES},
    sheet.shape,
    float(np.abs(sheet - contact_sheet(
        [shrink(load(name)) for name in PICTURES]
        + [shrink(find_edges(smooth(load(name)))) for name in PICTURES]
    )).max()),
    [float(sheet[:160, 160 * n : 160 * (n + 1)].std()) for n in range(5)],
)"""
    printed, (nodes, peaks, kept, memory, shape, difference, spreads) = execute(
        "image_processing", tmp_path, facts
    )
    assert memory["astronaut.png"] == 3 * 512 * 512 * 24 / 2**20
    large = {name for name, amount in memory.items() if amount > 40}
    assert large == {"hubble_deep_field.jpg", "retina.jpg"}
    assert {nodes["smooth", name] for name in large} == {"large"}
    assert all(f"{name:<22} smoothed on {nodes['smooth', name]}\n" in printed for name in memory)
    assert 0 < peaks["small"] <= 40
    assert 100 < peaks["large"] <= 200
    assert kept == ["sheet"]
    assert shape == (320, 800, 3)
    assert difference < 1e-9
    assert min(spreads) > 0.05, "images, not plain areas"


@pytest.mark.slow  # the documentation runs it, too
def test_numeric_pipeline(tmp_path):
    facts = """(
    {(n, p): accuracy(train(f, p), f[1]) for n in SIZES
     for f in [make_features(normalise(split(0)), n, 1)] for p in PENALTIES},
    {setting: run.results["score", *setting] for setting in settings},
    best,
    final,
    len({tuple(row) for part in split(0) for row in np.c_[part[0], part[1]]}),
)"""
    printed, (direct, scores, best, final, different) = execute("numeric_pipeline", tmp_path, facts)
    assert scores == pytest.approx(direct, abs=0.01)
    assert scores[best] == max(scores.values())
    assert scores[500, 0.1] > scores[150, 0.1] > scores[50, 0.1]
    assert final > 0.94
    assert different == 1797
    assert "24 functions\n" in printed
    assert f"best setting: {best}\n" in printed
    assert f"accuracy {final:.3f} on 450 other digits\n" in printed


@pytest.mark.slow  # the documentation runs it, too
def test_capacity_planning(tmp_path):
    facts = (
        "{n: (p.makespan, p.lower_bound, max(p.bounds, key=p.bounds.get)) for n, p in plans.items()}, needed"
    )
    printed, (plans, needed) = execute("capacity_planning", tmp_path, facts)
    for makespan, bound, _ in plans.values():
        assert bound <= makespan <= 1.25 * bound
    assert plans[1][1] >= 40 * 15, "one GPU, forty segmentations"
    assert needed == min(n for n, plan in plans.items() if plan[0] <= 180)
    assert plans[needed - 1][0] > 180
    assert plans[needed][2] == "gpu"
    assert plans[12][2].startswith("cpu")
    assert f"{needed} GPU nodes: done after {plans[needed][0]:.0f} minutes\n" in printed
    assert "40 functions fit nowhere" in printed


@pytest.mark.slow  # the documentation runs it, too
def test_from_dask_delayed(tmp_path):
    facts = "dict(result.results), result.allocations, best.compute()"
    printed, (results, allocations, computed) = execute("from_dask_delayed", tmp_path, facts)
    assert results["combine"] == computed == max(0.5 * sum(range(n * 10, n * 10 + 10)) for n in range(4))
    trained = {id: node for id, node in allocations.items() if id.startswith("train")}
    assert set(trained.values()) == {"gpus"}
    assert len(trained) == 4
    lines = printed.splitlines()
    assert "train    cost {'gpu': 1}, retries 2" in lines
    assert "{'load': {'memory': 3000}, 'train': {'cpu': 1, 'gpu': 1}, 'combine': {'cpu': 1}}" in lines
    assert "asked: gpu 8; nearest node 'gpus' has gpu 1" in printed
    assert lines[-1] == "{'publish': 'published 172.5'}"
