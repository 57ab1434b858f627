"""Values whose ``repr`` raises keep nothing else from being shown."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from helpers import dag_of

import handoff_dask as handoff
from handoff_dask import DAG, Function, InvalidDAGError
from handoff_dask._cli.main import cli
from handoff_dask._model.safe_repr import safe_repr

SAID = "<Mute, whose repr raises RuntimeError>"


class Mute:
    """Cannot be shown."""

    def __repr__(self):
        raise RuntimeError("there is nothing to see")


class MuteError(Exception):
    """Cannot be shown either."""

    def __repr__(self):
        raise RuntimeError("there is nothing to see")

    __str__ = __repr__


def mute(*args, **kwargs):
    return Mute()


def fail():
    raise MuteError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, "a"], "[1, 'a']"),
        (Mute(), SAID),
        ((Mute(),), f"({SAID},)"),
        ((1, Mute()), f"(1, {SAID})"),
        ([Mute(), 1], f"[{SAID}, 1]"),
        ({"a": Mute(), Mute(): 1}, f"{{'a': {SAID}, {SAID}: 1}}"),
        ([[Mute()]], "[<list, whose repr raises RuntimeError>]"),
    ],
)
def test_what_can_be_shown_is(value, text):
    assert safe_repr(value) == text


DAG_OF_MUTES = dag_of(
    Function("f", mute, extra_args=[1, Mute()], extra_kwargs={"x": Mute()}),
    Function("g", len, extra_args=[[]]),
)


def test_functions_and_dags():
    assert repr(DAG_OF_MUTES["f"]) == (
        f"Function(id='f', code=mute, extra_args=(1, {SAID}), extra_kwargs={{'x': {SAID}}})"
    )
    for text in (repr(DAG_OF_MUTES), DAG_OF_MUTES._repr_html_(), DAG_OF_MUTES.to_mermaid()):
        assert text


@pytest.mark.parametrize(
    "fields",
    [
        {"extra_args": Mute()},
        {"extra_kwargs": Mute()},
        {"cost": Mute()},
        {"cost": {"cpu": Mute()}},
        {"node": Mute()},
        {"code": Mute()},
        {"type": Mute()},
        {"retry": Mute()},
    ],
)
def test_what_is_wrong_with_a_function(fields, monkeypatch):
    dag = DAG("wrong").add_function(Function("f", **{"code": mute, **fields}))
    with pytest.raises(InvalidDAGError, match="Mute"):
        dag.validate()
    for text in (dag._repr_html_(), dag.to_mermaid(), repr(dag["f"])):
        assert text
    monkeypatch.setattr("handoff_dask._cli.dags.load_dag", lambda target: dag)
    assert CliRunner().invoke(cli, ["show", "any:dag"]).exit_code == 0


@pytest.mark.parametrize("local", [True, False])
def test_results(client, local):
    result = handoff.execute_local(DAG_OF_MUTES) if local else handoff.execute(DAG_OF_MUTES, client)
    assert f"results {{'f': {SAID}, 'g': 0}}" in repr(result)
    assert repr(result).startswith("<Result of DAG 'test' in ")
    assert "Mute, whose repr raises RuntimeError" in result._repr_html_()


def test_errors_of_functions_run_in_this_process():
    with pytest.raises(handoff.FunctionFailedError) as caught:
        handoff.execute_local(dag_of(Function("f", fail, max_retries=0)))
    assert caught.value.attempts[0].error == "<MuteError, whose repr raises RuntimeError>"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_on_the_command_line(monkeypatch, options):
    monkeypatch.setattr("handoff_dask._cli.run.load_dag", lambda target: DAG_OF_MUTES)
    done = CliRunner().invoke(cli, ["run", "any:dag", *options])
    assert done.exit_code == 0, done.output
    if options:
        assert [f["result"] for f in json.loads(done.stdout)["functions"]] == [SAID, 0]
    else:
        assert SAID in done.stdout
