"""The ``handoff`` section of Dask's configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dask
import pytest
import yaml

import handoff_dask
from handoff_dask._adapter.config import read_archive_bounds, read_settings, read_stream_interval
from handoff_dask._scheduling.decisions import Settings


def test_defaults():
    assert read_settings() == Settings(bandwidth=100_000_000)
    assert read_stream_interval() == 0.001
    assert read_archive_bounds() == (100, 100_000)


def test_values_may_have_any_format_that_dask_accepts():
    values = {
        "handoff.node-timeout": "2 minutes",
        "handoff.prefetch.horizon": "5ms",
        "handoff.prefetch.limit": 7,
        "handoff.client-grace": "90s",
        "handoff.stream-interval": "500us",
        "handoff.recent-runs": 7,
        "handoff.recent-functions": "2000",
        "distributed.scheduler.bandwidth": "2 GB",
    }
    with dask.config.set(values):
        assert read_settings() == Settings(
            node_timeout=120.0, prefetch_horizon=0.005, prefetch_limit=7, bandwidth=2_000_000_000
        )
        assert read_stream_interval() == 0.0005
        assert read_archive_bounds() == (7, 2000)


PACKAGE = Path(handoff_dask.__file__).parent
FILE = PACKAGE / "handoff.yaml"


def keys_of(values, prefix="handoff"):
    """Yield the dotted names of all values in a section of the configuration."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}"


def test_defaults_are_in_the_configuration_of_dask():
    done = subprocess.run(
        [sys.executable, "-c", "import dask, handoff_dask; print(dask.config.get('handoff'))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(yaml.safe_load(FILE.read_text())["handoff"])


@pytest.mark.parametrize("known", [True, False], ids=["from the file", "without the file"])
def test_defaults_in_code_and_file_are_equal(monkeypatch, known):
    handoff = yaml.safe_load(FILE.read_text())["handoff"] if known else {}
    monkeypatch.setitem(dask.config.config, "handoff", handoff)
    test_defaults()


def test_the_file_has_exactly_the_keys_that_the_code_reads():
    read = set()
    for module in PACKAGE.rglob("*.py"):
        read.update(re.findall(r'config\.get\(\s*"(handoff\.[^"]+)"', module.read_text()))
    assert len(read) >= 7
    assert set(keys_of(yaml.safe_load(FILE.read_text())["handoff"])) == read


def test_every_key_has_a_comment():
    lines = FILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r" +[a-z-]+: \S", line):
            assert lines[number - 1].lstrip().startswith("#"), line


def test_the_reference_has_every_key_with_its_default():
    page = (PACKAGE.parent / "docs" / "reference" / "configuration.md").read_text()
    with dask.config.set(yaml.safe_load(FILE.read_text())):
        for key in keys_of(yaml.safe_load(FILE.read_text())["handoff"]):
            default = dask.config.get(key)
            written = str(default).lower() if isinstance(default, bool) else default
            assert f"| `{key}` | `{written}` |" in page


def test_the_user_s_file_takes_precedence(tmp_path):
    (tmp_path / "mine.yaml").write_text("handoff:\n  client-grace: 1m\n")
    code = (
        "import dask, handoff_dask as _; c = dask.config.get('handoff');"
        " print(c['client-grace'], c['prefetch'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DASK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split(maxsplit=1) == ["1m", "{'horizon': '10ms', 'limit': 40}\n"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({}, []),
        ({"handoff.node_timeout": "1s", "handoff.prefetch.limit": 3}, []),
        (
            {"handoff.node-timout": "1s"},
            ["unknown key 'node-timout' under 'handoff' in the configuration; did you mean 'node-timeout'?"],
        ),
        (
            {"handoff.prefetch.horizn": "1s", "handoff.colour": 3, "handoff.horizon": "1s"},
            [
                "unknown key 'prefetch.horizn' under 'handoff' in the configuration;"
                " did you mean 'prefetch.horizon'?",
                "unknown key 'colour' under 'handoff' in the configuration",
                "unknown key 'horizon' under 'handoff' in the configuration;"
                " did you mean 'prefetch.horizon'?",
            ],
        ),
    ],
)
def test_unknown_keys_are_logged(values, texts, caplog):
    with dask.config.set(values):
        read_settings()
    assert [record.getMessage() for record in caplog.records] == texts
