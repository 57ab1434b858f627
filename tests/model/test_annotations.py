"""``dask.annotate`` around the functions of a DAG: a warning, because they ignore it."""

import subprocess
import sys
import warnings

import dask
import pytest

from handoff_dask import DAG, Function, execute_local

INSTEAD = [
    ({"resources": {"gpu": 1}}, "cost= instead of resources="),
    ({"workers": "node1"}, "node= instead of workers="),
    ({"retries": 2}, "max_retries= instead of retries="),
    ({"priority": 5}, "priority= instead of priority="),
    (
        {"retries": 0, "span": "x", "workers": ["a"]},
        "node= instead of workers=, max_retries= instead of retries=",
    ),
]


def add_function():
    DAG().add_function(Function("f", len))


def decorate():
    DAG().function(len)


def decorate_with_fields():
    DAG().function(cost={"cpu": 1})(len)


@pytest.mark.parametrize("add", [add_function, decorate, decorate_with_fields])
@pytest.mark.parametrize(("annotations", "instead"), INSTEAD)
def test_one_warning_at_the_line_of_the_caller(add, annotations, instead):
    with warnings.catch_warnings(record=True) as caught, dask.annotate(**annotations):
        warnings.simplefilter("always")
        add()
    (warning,) = caught
    assert warning.category is UserWarning
    assert str(warning.message) == f"the functions of a DAG ignore dask.annotate: give them {instead}"
    assert (warning.filename, warning.lineno) == (__file__, add.__code__.co_firstlineno + 1)


@pytest.mark.parametrize("add", [add_function, decorate, decorate_with_fields])
def test_no_warning(add):
    """Warnings are errors in these tests."""
    add()
    with dask.annotate(span="x", allow_other_workers=True):
        add()


def test_no_warning_about_conversions(tmp_path):
    """``DAG.from_delayed`` respects annotations."""
    with dask.annotate(resources={"gpu": 1}, retries=2):
        dag = DAG.from_delayed(dask.delayed(len)([1, 2], dask_key_name="n"))
        DAG.from_graph({"x": (len, "ab")}, "x")
        assert (dag["n"].cost, dag["n"].max_retries) == ({"gpu": 1}, 2)


def test_no_warning_about_checkpoints(tmp_path):
    """A run that resumes builds a DAG of its own."""
    dag = (
        DAG().add_function(Function("f", len, extra_args=["ab"])).add_function(Function("g", abs, args=["f"]))
    )
    with dask.annotate(priority=5):
        for _ in range(2):
            assert execute_local(dag, checkpoint=tmp_path)["g"] == 2


def test_the_model_does_not_import_dask():
    code = (
        "import sys; sys.modules['handoff_dask'] = type(sys)('handoff_dask');"
        " sys.modules['handoff_dask'].__path__ = [sys.argv[1]];"
        " from handoff_dask._model.dag import DAG; DAG().function(len); assert 'dask' not in sys.modules"
    )
    package = sys.modules["handoff_dask"].__path__[0]
    subprocess.run([sys.executable, "-c", code, package], check=True)
