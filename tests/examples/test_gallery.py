"""The programs of the gallery run, are short, use unequal nodes, and are shown on a page."""

import re
import runpy
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "examples" / "gallery"
PAGE = (ROOT / "docs" / "gallery.md").read_text()

#: Program → its output, as a regular expression.
OUTPUTS = {
    "etl": r"rows written: \{'north': 180, 'south': 180, 'west': 180\}\n",
    "genomics": r"shared: \[1500\] child: \[500, 800, 1500\]\n",
    "geospatial_tiles": r"16 tiles, \(512, 512\) pixels, up to 7\.4 degrees\n",
    "gpu_training": r"training on GPU 0 of lab\naccuracy 0\.9\d, trained on lab\n",
    "images": (
        r"coins\.png: 2\d objects, counted on (small|large)\n"
        r"moon\.png: \d+ objects, counted on (small|large)\n"
        r"hubble_deep_field\.jpg: 3\d\d objects, counted on large\n"
    ),
    "parameter_sweep": r"best penalty 10, error 2\.3\d\n",
}


def test_every_program_is_tested_and_shown():
    assert {path.stem for path in PROGRAMS.glob("*.py")} == set(OUTPUTS)
    assert re.findall(r"literalinclude} \.\./examples/gallery/(\w+)\.py", PAGE) == list(
        dict.fromkeys(re.findall(r"gallery/(\w+)\.py", PAGE))
    )
    assert set(re.findall(r"gallery/(\w+)\.py", PAGE)) == set(OUTPUTS)


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_program(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = PROGRAMS / f"{name}.py"
    assert len(program.read_text().splitlines()) < 40
    variables = runpy.run_path(str(program), run_name="__main__")
    assert re.fullmatch(OUTPUTS[name], capsys.readouterr().out)
    one, other = variables["nodes"].values()
    assert one != other


def test_slopes_of_tiles_are_those_of_the_whole(tmp_path, monkeypatch, capsys):
    """Tiles fit together without seams."""
    variables = runpy.run_path(str(PROGRAMS / "geospatial_tiles.py"), run_name="__main__")
    np, size, read, slope = (variables[name] for name in ("np", "SIZE", "read", "slope"))
    read.__globals__["TILE"] = size
    np.testing.assert_allclose(variables["slopes"], slope(read(0, 0)))
