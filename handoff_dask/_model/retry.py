"""The retry policy: whether, when and where a failed function is retried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from numbers import Integral
from typing import Any

from handoff_dask._model.resources import from_units, to_units
from handoff_dask._suggest import suggest_fields
from handoff_dask.exceptions import CostError, FunctionCrashedError

#: Errors in the code or the installation, which another attempt would only repeat.
_PERMANENT = (ModuleNotFoundError, NameError, SyntaxError, CostError)

#: Errors that may differ on another node or at another time, even if loading the code raises them.
_TRANSIENT = (OSError, MemoryError)


class Origin(Enum):
    """What raised the exception of a failed attempt."""

    #: Importing or unpickling the function's code or arguments, before the call.
    LOADING = "loading"
    #: The call itself, for example because the arguments do not match the signature.
    CALL = "call"
    #: The code, after the call has entered it; or anything after the call.
    CODE = "code"


def is_retryable(
    retry_on: tuple[type[BaseException], ...] | None, error: BaseException, origin: Origin = Origin.CODE
) -> bool:
    """Return whether failures with this exception are retried. ``retry_on`` is that of the retry policy."""
    if retry_on is not None:
        return isinstance(error, retry_on)
    if not isinstance(error, Exception) or isinstance(error, _PERMANENT):
        return False
    if origin is Origin.LOADING:
        return isinstance(error, _TRANSIENT)
    return origin is not Origin.CALL or not isinstance(error, TypeError)


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an attempt failed with this exception because it ran out of memory."""
    if isinstance(error, FunctionCrashedError):
        return error.status == -9  # the signal with which the kernel ends processes when memory is short
    return isinstance(error, MemoryError)


@suggest_fields
@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Whether, when and where a failed function is retried.

    A lost node does not count as a failure of the function and uses up no retry.

    Attributes
    ----------
    max_retries : int
        Maximum number of attempts after the first: 3 allows four attempts in total.
    delay : float
        Seconds before the first retry.
    backoff : float
        Factor by which the delay grows with each further retry; at least 1.
    max_delay : float
        Upper bound of a delay in seconds, jitter included.
    jitter : float
        Each delay is lengthened by a random fraction of itself between 0 and ``jitter`` (0.5: by up to half).
    retry_on : tuple of exception types, optional
        Only failures with an exception of these types are retried. None, the default, retries every
        ``Exception`` except those that another attempt would only repeat: ``ModuleNotFoundError``,
        ``NameError``, ``SyntaxError``, a ``TypeError`` raised by the call itself (wrong arguments), and any
        error of unpickling or importing the code or its arguments on the node, unless it is an ``OSError``
        or a ``MemoryError``. ``retry_on=Exception`` retries these too.
    elsewhere : bool
        Prefer a node on which this function has not failed yet.
    grow : mapping of str to number
        Resource → factor, at least 1. After an attempt has run out of memory, the next one asks for that many
        times as much, at most for what the largest node has that may run the function. If it has already
        asked for that, the function fails. An attempt has run out of memory if it has exceeded its ``memory``
        cost (:class:`FunctionMemoryError`), raised a ``MemoryError``, was killed by the system, or if it is
        the second one whose node was lost.

    Raises
    ------
    TypeError, ValueError
        A field has the wrong type or is out of range.
    """

    max_retries: int = 3
    delay: float = 0.0
    backoff: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] | None = None
    elsewhere: bool = True
    grow: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.retry_on is not None:
            object.__setattr__(self, "retry_on", _exception_types(self.retry_on))
        check_max_retries(self.max_retries, "RetryPolicy.max_retries")
        for name in ("delay", "backoff", "max_delay", "jitter"):
            value = getattr(self, name)
            try:
                to_units(value)
            except ValueError as error:
                raise ValueError(f"RetryPolicy.{name} {error}") from None
            if type(value) not in (int, float):  # such as a Decimal, which cannot be multiplied by a float
                object.__setattr__(self, name, float(value))
        if self.backoff < 1:
            raise ValueError(f"RetryPolicy.backoff must be at least 1, but is {self.backoff!r}")
        if not isinstance(self.elsewhere, bool):
            raise TypeError(f"RetryPolicy.elsewhere must be True or False, not {self.elsewhere!r}")
        object.__setattr__(self, "grow", _factors(self.grow))

    def allows(self, failures: int) -> bool:
        """Return whether to retry after failure number ``failures`` (from 1), if its error is retryable."""
        return failures <= self.max_retries

    def wait(self, failures: int, draw: float) -> float:
        """Return the delay in seconds after failure number ``failures`` (from 1).

        ``draw`` is a random number in [0, 1), which determines the jitter.
        """
        if not self.delay:
            return 0.0
        try:
            wait = float(self.delay * self.backoff ** (failures - 1))
        except OverflowError:
            wait = self.max_delay
        return float(min(self.max_delay, wait * (1.0 + self.jitter * draw)))

    def grown(self, cost: Mapping[str, Any]) -> dict[str, Any]:
        """Return a cost after an attempt has run out of memory, without regard to any node."""
        return {
            name: from_units(math.ceil(to_units(amount) * self.grow[name])) if name in self.grow else amount
            for name, amount in cost.items()
        }

    def with_max_retries(self, max_retries: int) -> RetryPolicy:
        """Return a copy of the policy with another ``max_retries``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return RetryPolicy(**{**values, "max_retries": max_retries})


def _exception_types(given: object) -> tuple[type[BaseException], ...]:
    """Return one exception type, or several, as a tuple. Raise TypeError for anything else."""
    kinds = (given,) if isinstance(given, type) else given
    if not isinstance(kinds, Iterable):
        raise TypeError(f"RetryPolicy.retry_on takes exception types, not {given!r}")
    kinds = tuple(kinds)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"RetryPolicy.retry_on takes exception types, not {kind!r}")
    return kinds


def _factors(given: object) -> dict[str, float]:
    """Return the factors of ``grow``, validated."""
    if not isinstance(given, Mapping):
        raise TypeError(f"RetryPolicy.grow must map resources to factors, not {given!r}")
    factors = {}
    for name, factor in given.items():
        if not isinstance(name, str):
            raise TypeError(f"RetryPolicy.grow: a resource must be a str, not {name!r}")
        try:
            to_units(factor)
        except ValueError as error:
            raise ValueError(f"RetryPolicy.grow: {name} {error}") from None
        if factor < 1:
            raise ValueError(f"RetryPolicy.grow: {name} must be at least 1, but is {factor!r}")
        factors[name] = float(factor)
    return factors


def check_max_retries(value: object, what: str) -> None:
    """Raise TypeError or ValueError, naming ``what``, unless ``value`` is a non-negative integer."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what} must be a whole number, not {value!r}")
    if value < 0:
        raise ValueError(f"{what} must not be negative, but is {value}")
