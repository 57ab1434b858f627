"""``@dag.function``: parameters with the names of functions become dependencies."""

import functools

import pytest

from handoff_dask import DAG, DuplicateFunctionError, Function, InvalidFunctionError


@pytest.fixture
def dag():
    return DAG("mine").add_function(Function("a", list)).add_function(Function("b", list))


def shape(dag, id):
    return dag[id].args, dag[id].kwargs


def test_bare(dag):
    @dag.function
    def use(a, b):
        return [a, b]

    assert use(1, 2) == [1, 2]
    assert dag["use"].code is use
    assert shape(dag, "use") == (("a", "b"), {})
    dag.validate()


def test_with_fields(dag):
    @dag.function(id="other", cost={"cpu": 2}, node="n1", max_retries=1)
    def use(b):
        return b

    f = dag["other"]
    assert "use" not in dag
    assert (f.code, f.args, f.cost, f.node, f.max_retries) == (use, ("b",), {"cpu": 2}, "n1", 1)


def test_later_dependencies_are_passed_by_keyword(dag):
    """``a`` follows a parameter that ``extra_args`` fills, so it cannot be passed positionally."""

    @dag.function(extra_args=[1])
    def use(n, a, *, b):
        return n, a, b

    assert shape(dag, "use") == ((), {"a": "a", "b": "b"})
    dag.validate()


def test_leading_dependencies_are_passed_by_position(dag):
    @dag.function(extra_args=[1])
    def use(b, n):
        return b, n

    assert shape(dag, "use") == (("b",), {})
    dag.validate()


def test_optional_parameters(dag):
    @dag.function
    def use(a, scale=2, *others, b=None, **more):
        return a

    assert shape(dag, "use") == (("a",), {"b": "b"})
    dag.validate()


def test_positional_only(dag):
    @dag.function
    def use(a, b, /):
        return a, b

    assert shape(dag, "use") == (("a", "b"), {})


def test_functions_added_later_are_not_dependencies():
    dag = DAG()

    @dag.function
    def use(later=None):
        return later

    dag.add_function(Function("later", list))
    assert shape(dag, "use") == ((), {})


def test_explicit_args_take_precedence(dag):
    @dag.function(args=["b"])
    def one(a):
        return a

    @dag.function(args=[])
    def none(a=None):
        return a

    assert shape(dag, "one") == (("b",), {})
    assert shape(dag, "none") == ((), {})


def test_explicit_kwargs_take_precedence(dag):
    @dag.function(kwargs={"b": "a"})
    def use(a, b):
        return a, b

    assert shape(dag, "use") == (("a",), {"b": "a"})
    dag.validate()


def test_explicit_values_take_precedence(dag):
    @dag.function(extra_kwargs={"a": 7})
    def use(a, b):
        return a, b

    assert shape(dag, "use") == ((), {"b": "b"})
    assert dag["use"].extra_kwargs == {"a": 7}
    dag.validate()


def test_builtin_without_signature(dag):
    assert dag.function(id="most", extra_args=[1, 2])(max) is max
    assert shape(dag, "most") == ((), {})
    dag.validate()


def test_code_without_a_name(dag):
    code = functools.partial(sorted, reverse=True)
    with pytest.raises(InvalidFunctionError, match="has no name"):
        dag.function(code)
    assert len(dag) == 2
    dag.function(id="sort", args=["a"])(code)
    assert dag["sort"].code is code


def test_duplicate_id(dag):
    with pytest.raises(DuplicateFunctionError):

        @dag.function
        def a():
            pass


def test_unknown_field(dag):
    with pytest.raises(TypeError, match="costs"):
        dag.function(costs={"cpu": 1})(print)


def test_variadic_parameters_are_not_dependencies(dag):
    @dag.function
    def use(*a, **b):
        return a, b

    assert shape(dag, "use") == ((), {})
