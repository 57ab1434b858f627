"""The example programs run as written and produce the promised results."""

import importlib.util
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from PIL import Image, ImageOps

import handoff_dask as handoff

ROOT = Path(__file__).parents[2]


def load_example(name):
    spec = importlib.util.spec_from_file_location(f"handoff_example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its functions are pickled by reference to this name
    spec.loader.exec_module(module)
    return module


# basic.py

BASIC = {"source": 42, "transform": 84, "sink": "The final answer is: 84"}


def test_basic(capsys):
    result = load_example("basic").main()
    assert result.results == BASIC
    assert set(result.allocations) == set(BASIC)
    assert all(result.allocations.values())
    lines = capsys.readouterr().out.splitlines()
    for id, value in BASIC.items():
        (line,) = [line for line in lines if line.startswith(id)]
        assert str(value) in line
        assert line.endswith(result.allocations[id])


def test_basic_as_a_script():
    """Run as users do: the functions are in ``__main__``, the folder is first on the import path."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "basic.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "The final answer is: 84" in done.stdout
    assert done.stderr == ""


# distributed_execution.py

DISTRIBUTED = {
    "load_data": "Loaded: /path/to/shared/data.txt",
    "gpu_process": "Processed [Loaded: /path/to/shared/data.txt] on GPU",
    "format_result": "The final answer is: Processed [Loaded: /path/to/shared/data.txt] on GPU",
}


def check_distributed(result, printed):
    assert result.results == DISTRIBUTED
    assert set(result.allocations) == set(DISTRIBUTED)
    assert result.allocations["gpu_process"] == "gpu-node"
    for text in (*DISTRIBUTED.values(), *result.allocations.values()):
        assert text in printed


def test_distributed(capsys):
    example = load_example("distributed_execution")
    result = example.main()
    check_distributed(result, capsys.readouterr().out)
    assert set(result.allocations.values()) <= set(example.NODES)


def test_distributed_costs():
    functions = load_example("distributed_execution").dag.functions
    assert {id: dict(function.cost) for id, function in functions.items()} == {
        "load_data": {"cpu": 1, "memory": 1000},
        "gpu_process": {"cpu": 2, "memory": 2048, "gpu": 1},
        "format_result": {"cpu": 1, "memory": 500},
    }


def test_distributed_on_an_existing_cluster(capsys):
    """The program uses the cluster at the address, and leaves it running."""
    example = load_example("distributed_execution")
    nodes = {"other-node": {"cpu": 1, "memory": 4096}, "gpu-node": {"cpu": 2, "memory": 4096, "gpu": 1}}
    with handoff.local_cluster(nodes) as cluster:
        result = example.main(cluster.scheduler_address)
        with Client(cluster) as client:
            assert set(handoff.discover_nodes(client)) == set(nodes)
    check_distributed(result, capsys.readouterr().out)
    assert set(result.allocations.values()) <= set(nodes)


# image_processing.py


@pytest.fixture(scope="module")
def example():
    return load_example("image_processing")


@pytest.fixture(scope="module")
def image_run(example, tmp_path_factory):
    """The result of one run, the path of its collage, and its output."""
    path = tmp_path_factory.mktemp("image_processing") / "collage.png"
    with redirect_stdout(io.StringIO()) as printed:
        result = example.main(str(path))
    return result, path, printed.getvalue()


@pytest.fixture(scope="module")
def sheet(image_run):
    with Image.open(image_run[1]) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        return np.asarray(image)


def tile(example, sheet, row, column):
    left, upper = example.corner(row, column)
    return sheet[upper : upper + example.TILE, left : left + example.TILE].astype(int)


def reference_stages(filename):
    """Compute the stages independently of the example: line by line, weight by weight."""
    with Image.open(files("skimage") / "data" / filename) as image:
        fitted = ImageOps.fit(image.convert("RGB"), (256, 256), Image.Resampling.LANCZOS)
    resized = np.asarray(fitted) / 255

    gaussian = np.array([np.exp(-(offset**2) / 8) for offset in range(-8, 9)])  # sigma 2, cut at 4 sigma
    gaussian /= gaussian.sum()

    def blur_line(line):
        return np.convolve(np.pad(line, 8, mode="edge"), gaussian, mode="valid")

    blurred = np.apply_along_axis(blur_line, 1, np.apply_along_axis(blur_line, 0, resized))
    gray = 0.299 * blurred[..., 0] + 0.587 * blurred[..., 1] + 0.114 * blurred[..., 2]

    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = np.pad(gray, 1, mode="edge")
    across, down = np.zeros_like(gray), np.zeros_like(gray)
    for row in range(3):
        for column in range(3):
            shifted = padded[row : row + 256, column : column + 256]
            across += sobel[row, column] * shifted
            down += sobel[column, row] * shifted
    edges = np.sqrt(across**2 + down**2)
    return {"resize": resized, "blur": blurred, "grayscale": gray, "edges": edges / edges.max()}


def test_image_values(example, image_run, sheet):
    result = image_run[0]
    for row, (name, filename) in enumerate(example.PICTURES.items()):
        for column, (stage, expected) in enumerate(reference_stages(filename).items()):
            value = result.results[stage, name]
            assert value.shape == expected.shape
            np.testing.assert_allclose(value, expected, atol=1e-9)
            shown = tile(example, sheet, row, column)
            expected = expected if expected.ndim == 3 else expected[..., np.newaxis]
            assert np.abs(shown - 255 * expected).max() <= 0.5 + 1e-6


def test_image_collage(example, image_run, sheet):
    assert sheet.shape == (1120, 1184, 3)
    np.testing.assert_array_equal(sheet, image_run[0].results["collage"])
    rows, columns = len(example.PICTURES), len(example.STAGES)
    covered = np.zeros(sheet.shape[:2], bool)
    for row in range(rows):
        for column in range(columns):
            left, upper = example.corner(row, column)
            assert not covered[upper : upper + 256, left : left + 256].any()
            covered[upper : upper + 256, left : left + 256] = True
            shown = tile(example, sheet, row, column)
            assert np.ptp(shown) > 100
            assert shown.std() > 10
    drawn = (sheet != example.BACKGROUND).any(axis=2)
    assert covered.sum() == rows * columns * 256 * 256
    for column in range(columns):  # a label above each column and beside each row, nothing in the gaps
        left, upper = example.corner(0, column)
        assert drawn[:upper, left : left + 256].any()
    for row in range(rows):
        left, upper = example.corner(row, 0)
        assert drawn[upper : upper + 256, :left].any()
    left, upper = example.corner(0, 0)
    assert not (drawn & ~covered)[upper:, left:].any()


def test_image_placement(example, image_run):
    result = image_run[0]
    functions = example.build_dag().functions
    assert len(functions) == 21
    assert set(result.allocations) == set(functions)
    for id, function in functions.items():
        capacity = example.NODES[result.allocations[id]]
        assert all(capacity.get(resource, 0) >= amount for resource, amount in function.cost.items()), id
        if id[0] == "edges":
            assert result.allocations[id] == "gpu"


def test_image_capacity_is_never_exceeded(example, image_run):
    result = image_run[0]
    functions = example.build_dag().functions
    changes = []
    for id, record in result.records.items():
        assert record.node == result.allocations[id]
        for attempt in record.attempts:
            changes.append((attempt.started, 1, attempt.node, functions[id].cost))
            changes.append((attempt.stopped, -1, attempt.node, functions[id].cost))
    used = {(node, name): 0 for node, capacity in example.NODES.items() for name in capacity}
    for _, sign, node, cost in sorted(changes, key=lambda change: change[:2]):
        for resource, amount in cost.items():
            used[node, resource] += sign * amount
            assert used[node, resource] <= example.NODES[node][resource]
    assert set(used.values()) == {0}


def test_image_table(example, image_run):
    result, path, printed = image_run
    heading, *lines, wrote = printed.splitlines()
    assert heading.split() == ["function", "node", "started", "seconds", "attempts"]
    table = {}
    times = []
    for line in lines:
        *function, node, started, seconds, attempts = line.split()
        table[tuple(function)] = node
        times.append(float(started))
        assert float(seconds) >= 0
        assert attempts == "1"
    nodes = result.allocations.items()
    assert table == {(id,) if isinstance(id, str) else id: node for id, node in nodes}
    assert times[0] == 0
    assert times == sorted(times)
    assert wrote == f"Wrote {path}: 1184 x 1120 pixels."
