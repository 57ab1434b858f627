"""The chart of the cases shows the medians that ``reports.py`` has measured."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import draw_cases
import pytest
from reports import cases


@pytest.fixture
def drawing(tmp_path):
    ratios = {"plain Dask": [9.0, 2.0, 1.9], "handoff_dask": [1.0, 1.1, 1.2]}
    content = {case.name: {"ideal": case.ideal, "ratios": ratios} for case in cases()}
    content["chain last"]["ratios"] = {"plain Dask": [3.0], "handoff_dask": [1.3]}
    (tmp_path / "ratios.json").write_text(json.dumps({"machine": "a machine", "cases": content}))
    assert draw_cases.main([str(tmp_path / "ratios.json"), str(tmp_path / "cases.svg")]) == 0
    return (tmp_path / "cases.svg").read_text()


def test_every_case_has_a_bar_for_each_side(drawing):
    root = ElementTree.fromstring(drawing)
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(title in texts for title in draw_cases.TITLES.values())
    assert texts.count("2.00") == texts.count("1.10") == len(draw_cases.TITLES) - 1


def test_both_orders_of_a_case_are_averaged(drawing):
    assert "a chain beside short functions: plain Dask 2.50, handoff_dask 1.20" in drawing


def test_bars_are_as_long_as_their_ratios(drawing):
    bars = re.findall(
        r'<rect class="(?:plain|ours)" x="235" y="[\d.]+" width="([\d.]+)" height="15"/>', drawing
    )
    lengths = sorted({float(text) for text in bars})
    assert [round(length / lengths[-1], 3) for length in lengths] == [0.44, 0.48, 0.8, 1.0]
