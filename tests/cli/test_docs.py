"""The documentation of the command line is complete, and its examples work."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from handoff_dask._cli.errors import ExitCode
from handoff_dask._cli.main import EPILOG, cli

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference" / "command-line.md").read_text()
HOW_TO = (DOCS / "how-to" / "use-the-command-line.md").read_text()

#: Options documented once for all commands.
COMMON = {"--debug", "--help", "-h"}


def options_of(command: click.Command) -> set[str]:
    named = (p for p in command.params if isinstance(p, click.Option))
    return {name for option in named for name in (*option.opts, *option.secondary_opts)} - COMMON


def section(name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_reference_lists_exactly_the_options_of_each_command(name):
    assert f"`handoff-dask {name}" in REFERENCE
    terms = [line for line in section(name).splitlines() if line.startswith("`-")]
    assert set(re.findall(r"`(--?[a-z-]+)", " ".join(terms))) == options_of(cli.commands[name])


def test_the_reference_and_the_help_list_exactly_the_exit_codes():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    assert codes == {int(code) for code in ExitCode}
    assert {int(code) for code in re.findall(r"^  (\d+) ", EPILOG, re.MULTILINE)} == codes


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_fits_in_a_terminal(name):
    done = CliRunner().invoke(cli, [name, "--help"], prog_name="handoff-dask", terminal_width=80)
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    for option in options_of(cli.commands[name]):
        assert option in done.output
    for parameter in cli.commands[name].params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter


def test_the_examples_in_the_help_of_run_parse():
    text = CliRunner().invoke(cli, ["run", "--help"], prog_name="handoff-dask").output
    examples = [shlex.split(line) for line in re.findall(r"^  +handoff-dask (run .*)", text, re.MULTILINE)]
    assert len(examples) == 3
    for _, *arguments in examples:
        cli.commands["run"].make_parser(click.Context(cli.commands["run"])).parse_args(arguments)


@pytest.fixture(autouse=True)
def restored_path(monkeypatch):
    """Restore ``sys.path``: the command adds the folder of the DAG, and node processes would inherit it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("pipeline", None)


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", HOW_TO, re.MULTILINE | re.DOTALL)
    return "".join(found)


def test_the_examples_of_the_how_to_guide(tmp_path, monkeypatch):
    (tmp_path / "pipeline.py").write_text(block("python"))
    (tmp_path / "nodes.yaml").write_text(block("yaml"))
    monkeypatch.chdir(tmp_path)
    lines = [line for line in block("bash").splitlines() if "tcp://" not in line]
    assert len(lines) >= 10
    for line in lines:
        program, *arguments = shlex.split(line.partition(" > ")[0])
        assert program == "handoff-dask"
        done = CliRunner().invoke(cli, arguments, prog_name=program)
        assert done.exit_code == 0, (line, done.output)


def test_the_output_in_the_how_to_guide(tmp_path, monkeypatch):
    (tmp_path / "pipeline.py").write_text(block("python"))
    (tmp_path / "nodes.yaml").write_text(block("yaml"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["run", "pipeline.py:dag", "--nodes", "nodes.yaml"])

    def without_numbers(text: str) -> str:
        text = re.sub(r"Run [0-9a-f]+ ", "Run ID ", text)
        return re.sub(r" +", " ", re.sub(r"[\d.]+ m?s\b", "TIME", text))

    assert without_numbers(done.output) == without_numbers(block("text"))
