"""RetryPolicy: its fields and delays."""

import pickle
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_dask import RetryPolicy
from handoff_dask._model.retry import Origin, is_retryable


def test_defaults():
    assert RetryPolicy() == RetryPolicy(
        max_retries=3,
        delay=0.0,
        backoff=2.0,
        max_delay=60.0,
        jitter=0.0,
        retry_on=None,
        elsewhere=True,
    )


def test_value():
    policy = RetryPolicy(max_retries=1, delay=2)
    assert policy == RetryPolicy(1, 2)
    assert policy != RetryPolicy(1, 3)
    assert hash(policy) == hash(RetryPolicy(1, 2))
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize("given", [OSError, (OSError,), [OSError]])
def test_retry_on(given):
    assert RetryPolicy(retry_on=given).retry_on == (OSError,)


def test_retry_on_several_types_or_none():
    assert RetryPolicy(retry_on=[OSError, KeyboardInterrupt]).retry_on == (OSError, KeyboardInterrupt)
    assert RetryPolicy(retry_on=()).retry_on == ()


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"max_retries": -1}, ValueError, "max_retries must not be negative"),
        ({"max_retries": 1.0}, TypeError, "max_retries must be a whole number"),
        ({"max_retries": True}, TypeError, "max_retries must be a whole number"),
        ({"max_retries": None}, TypeError, "max_retries must be a whole number"),
        ({"delay": -1}, ValueError, "delay must not be negative"),
        ({"delay": float("nan")}, ValueError, "delay must be finite"),
        ({"delay": "1"}, ValueError, "delay must be a number"),
        ({"delay": None}, ValueError, "delay must be a number"),
        ({"backoff": 0.5}, ValueError, "backoff must be at least 1"),
        ({"backoff": 0}, ValueError, "backoff must be at least 1"),
        ({"backoff": float("inf")}, ValueError, "backoff must be finite"),
        ({"max_delay": -1}, ValueError, "max_delay must not be negative"),
        ({"max_delay": float("inf")}, ValueError, "max_delay must be finite"),
        ({"jitter": -0.1}, ValueError, "jitter must not be negative"),
        ({"jitter": True}, ValueError, "jitter must be a number"),
        ({"retry_on": "OSError"}, TypeError, "retry_on takes exception types"),
        ({"retry_on": [OSError()]}, TypeError, "retry_on takes exception types"),
        ({"retry_on": int}, TypeError, "retry_on takes exception types"),
        ({"elsewhere": "no"}, TypeError, "elsewhere must be True or False"),
    ],
)
def test_invalid_fields(fields, error, text):
    with pytest.raises(error, match=rf"RetryPolicy\.{text}"):
        RetryPolicy(**fields)


def test_unknown_field():
    with pytest.raises(TypeError, match="retries"):
        RetryPolicy(retries=3)


def waits(policy, n, draw=0.0):
    return [policy.wait(failures, draw) for failures in range(1, n + 1)]


def test_no_delay():
    assert waits(RetryPolicy(backoff=10, jitter=1), 5, draw=0.9) == [0.0] * 5


def test_backoff():
    assert waits(RetryPolicy(delay=0.5), 5) == [0.5, 1, 2, 4, 8]
    assert waits(RetryPolicy(delay=2, backoff=3), 4) == [2, 6, 18, 54]
    assert waits(RetryPolicy(delay=2, backoff=1), 4) == [2, 2, 2, 2]


def test_max_delay():
    assert waits(RetryPolicy(delay=10), 5) == [10, 20, 40, 60, 60]
    assert waits(RetryPolicy(delay=10, max_delay=5), 2) == [5, 5]
    assert waits(RetryPolicy(delay=10, max_delay=0), 2) == [0, 0]


def test_jitter():
    policy = RetryPolicy(delay=4, backoff=1, jitter=0.5, max_delay=5.5)
    assert [policy.wait(1, draw) for draw in (0, 0.25, 0.5)] == [4, 4.5, 5]
    assert policy.wait(1, 0.9) == 5.5  # jitter included


@pytest.mark.parametrize("backoff", [2, 2.0, 10**9, 1e300])
@pytest.mark.parametrize("delay", [1, 1.0, 1e-300])
def test_long_series_do_not_overflow(delay, backoff):
    assert RetryPolicy(delay=delay, backoff=backoff, jitter=0.5).wait(5000, 0.5) == 60


@pytest.mark.parametrize("kind", [Decimal, Fraction, np.float32, np.int64])
def test_other_number_types(kind):
    policy = RetryPolicy(delay=kind(2), backoff=kind(3), max_delay=kind(50), jitter=kind(1))
    assert waits(policy, 4, draw=0.5) == [3, 9, 27, 50]


@settings(deadline=None, max_examples=200)
@given(
    delay=st.floats(0, 1e6),
    backoff=st.floats(1, 10),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 5),
    failures=st.integers(1, 500),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_bounds(delay, backoff, max_delay, jitter, failures, draw):
    policy = RetryPolicy(delay=delay, backoff=backoff, max_delay=max_delay, jitter=jitter)
    wait = policy.wait(failures, draw)
    least = policy.wait(failures, 0.0)
    assert 0 <= least <= wait <= max_delay
    assert wait <= least * (1 + jitter) * (1 + 1e-12)
    assert least <= policy.wait(failures + 1, 0.0)


def test_with_max_retries():
    policy = RetryPolicy(1, 2, 3, 4, 0.5, (OSError,), elsewhere=False)
    assert policy.with_max_retries(9) == RetryPolicy(9, 2, 3, 4, 0.5, (OSError,), elsewhere=False)
    with pytest.raises(ValueError, match="negative"):
        policy.with_max_retries(-1)


def test_max_retries_accepts_numpy_integers():
    import numpy

    assert RetryPolicy(max_retries=numpy.int64(2)).max_retries == 2


def test_retry_on_rejects_other_values():
    with pytest.raises(TypeError, match="takes exception types, not 3"):
        RetryPolicy(retry_on=3)


@pytest.mark.parametrize(
    ("error", "by_origin"),  # loading, call, code
    [
        (ValueError(), "-++"),
        (KeyError(), "-++"),
        (TypeError(), "--+"),
        (AttributeError(), "-++"),
        (ImportError(), "-++"),
        (OSError(), "+++"),
        (ConnectionError(), "+++"),
        (MemoryError(), "+++"),
        (ModuleNotFoundError(), "---"),
        (NameError(), "---"),
        (UnboundLocalError(), "---"),
        (SyntaxError(), "---"),
        (IndentationError(), "---"),
        (KeyboardInterrupt(), "---"),
        (SystemExit(), "---"),
    ],
)
def test_which_errors_are_retried(error, by_origin):
    assert list(Origin) == [Origin.LOADING, Origin.CALL, Origin.CODE]
    for origin, expected in zip(Origin, by_origin, strict=True):
        assert is_retryable(None, error, origin) is (expected == "+")
        assert is_retryable((Exception,), error, origin) is isinstance(error, Exception)
        assert is_retryable((type(error), TimeoutError), error, origin)
        assert not is_retryable((ZeroDivisionError,), error, origin)
        assert not is_retryable((), error, origin)


def test_the_default_differs_from_every_exception():
    """They retry different errors. Both survive copies."""
    default, explicit = RetryPolicy(), RetryPolicy(retry_on=Exception)
    assert default != explicit
    for policy in (default, explicit):
        assert replace(policy, delay=1).retry_on == policy.retry_on
        assert policy.with_max_retries(1).retry_on == policy.retry_on
        assert pickle.loads(pickle.dumps(policy)) == policy
