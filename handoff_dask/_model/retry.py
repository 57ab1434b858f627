"""When a failed function is tried again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Integral

from handoff_dask._model.resources import to_units


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and where a function that failed is tried again.

    Attributes
    ----------
    max_retries : int
        Attempts after the first: 3 allows four attempts in all.
    delay : float
        Seconds before the first retry.
    backoff : float
        What the delay is multiplied with for each further retry; at least 1.
    max_delay : float
        Seconds that a delay never exceeds, jitter included.
    jitter : float
        A delay is lengthened by a random share of itself, up to this fraction (0.5: up to half).
    retry_on : tuple of exception types
        Only failures of these types are retried. A failure whose exception cannot reach the scheduler
        (it does not pickle, the code could not be loaded) counts as an ``Exception``.
    elsewhere : bool
        Prefer a node on which this function has not failed yet.

    Raises
    ------
    ValueError, TypeError
        A field is out of its range, or of the wrong type.

    Notes
    -----
    A lost node is not the function's failure and uses no retry.
    """

    max_retries: int = 3
    delay: float = 0.0
    backoff: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    elsewhere: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.retry_on, type):
            object.__setattr__(self, "retry_on", (self.retry_on,))
        if not isinstance(self.retry_on, Iterable):
            raise TypeError(f"RetryPolicy.retry_on takes exception types, not {self.retry_on!r}")
        object.__setattr__(self, "retry_on", tuple(self.retry_on))
        for kind in self.retry_on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"RetryPolicy.retry_on takes exception types, not {kind!r}")
        check_max_retries(self.max_retries, "RetryPolicy.max_retries")
        for name in ("delay", "backoff", "max_delay", "jitter"):
            value = getattr(self, name)
            try:
                to_units(value)
            except ValueError as error:
                raise ValueError(f"RetryPolicy.{name} {error}") from None
            if type(value) not in (int, float):  # a Decimal, say, which does not multiply with floats
                object.__setattr__(self, name, float(value))
        if self.backoff < 1:
            raise ValueError(f"RetryPolicy.backoff must be at least 1, but is {self.backoff!r}")
        if not isinstance(self.elsewhere, bool):
            raise TypeError(f"RetryPolicy.elsewhere must be True or False, not {self.elsewhere!r}")

    def allows(self, failures: int, error: BaseException | None = None) -> bool:
        """Whether another attempt follows the ``failures``-th failure (from 1), if it was such an error."""
        return failures <= self.max_retries and (error is None or isinstance(error, self.retry_on))

    def wait(self, failures: int, draw: float) -> float:
        """Seconds to wait after the ``failures``-th failure (from 1), given a random ``draw`` in [0, 1)."""
        if not self.delay:
            return 0.0
        try:
            wait = float(self.delay * self.backoff ** (failures - 1))
        except OverflowError:
            wait = self.max_delay
        return min(self.max_delay, wait * (1.0 + self.jitter * draw))

    def with_max_retries(self, max_retries: int) -> RetryPolicy:
        """The same policy with another number of retries."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return RetryPolicy(**{**values, "max_retries": max_retries})


def check_max_retries(value: object, what: str) -> None:
    """Raise unless ``value`` is a whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what} must be a whole number, not {value!r}")
    if value < 0:
        raise ValueError(f"{what} must not be negative, but is {value}")
