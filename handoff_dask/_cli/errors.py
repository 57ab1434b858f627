"""Exit codes, and error messages on standard error."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import click

from handoff_dask._cli.remedies import for_given_nodes, name_options
from handoff_dask.exceptions import (
    AllocationError,
    CheckpointError,
    ClusterNotReadyError,
    FunctionFailedError,
    HandoffError,
    HistoryError,
    InvalidDAGError,
    RunError,
    RunNotFoundError,
)

#: Key of what :func:`use_given_nodes` notes.
_NODES = "handoff_dask.nodes"


class ExitCode(IntEnum):
    """Process exit codes."""

    #: Success.
    DONE = 0
    #: The run failed: a function failed permanently, or the run timed out or was cancelled from elsewhere.
    FAILED = 1
    #: Nothing ran: wrong usage, an invalid DAG, an unusable file, a missing package.
    INVALID = 2
    #: Nothing ran: a function fits on no node.
    UNPLACEABLE = 3
    #: The scheduler does not answer, or the cluster cannot run handoff DAGs.
    NOT_READY = 4
    #: Any other error, such as a bug in handoff_dask.
    UNEXPECTED = 70
    #: Interrupted with Ctrl-C.
    INTERRUPTED = 130


class Failure(click.ClickException):
    """An error with a message for users and an exit code for scripts."""

    def __init__(self, message: str, code: ExitCode = ExitCode.INVALID) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click reads the instance attribute


def code_of(error: BaseException) -> ExitCode:
    """Return the exit code for an exception."""
    match error:
        case AllocationError():
            return ExitCode.UNPLACEABLE
        case RunError():
            return ExitCode.FAILED
        case ClusterNotReadyError():
            return ExitCode.NOT_READY
        case InvalidDAGError() | HistoryError() | CheckpointError() | RunNotFoundError() | ImportError():
            return ExitCode.INVALID
        case HandoffError():
            return ExitCode.FAILED
        case _:
            return ExitCode.UNEXPECTED


def message_of(error: BaseException) -> str:
    """Return the error message for an exception."""
    if isinstance(error, AllocationError):
        text, meta = str(error), _meta()
        if _NODES in meta:
            text = for_given_nodes(text, meta[_NODES])
        return name_options(text)
    if isinstance(error, (HandoffError, ImportError)):
        return str(error)
    return (
        f"{type(error).__name__}: {error}\nThis error is unexpected. Please report it with the output of"
        " --debug."
    )


def use_given_nodes(file: str | None) -> None:
    """Note for error messages that no cluster is used, but the nodes in a file, or only this machine."""
    _meta()[_NODES] = file


def _meta() -> dict[str, Any]:
    """Return what the current call of the command has noted; an empty dict outside of one."""
    context = click.get_current_context(silent=True)
    return {} if context is None else context.find_root().meta


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn TypeError and ValueError, which calls in the block raise for invalid user input, into Failure."""
    try:
        yield
    except HandoffError:
        raise
    except (TypeError, ValueError) as error:
        raise Failure(str(error)) from error


class Group(click.Group):
    """A command group that turns exceptions into a message and an exit code, and prints them with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command named on the command line."""
        try:
            with _silent_loggers(ctx):
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # The reader of our output has closed the pipe. Replace it, or Python fails to flush it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(ExitCode.DONE) from None
        except click.ClickException:
            self._print_traceback(ctx)
            raise
        except KeyboardInterrupt:
            self._print_traceback(ctx)
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
        except Exception as error:
            self._print_traceback(ctx)
            message = message_of(error)
            if isinstance(error, FunctionFailedError) and not _debug(ctx):
                message += "\n--debug shows the traceback."
            raise Failure(message, code_of(error)) from error

    @staticmethod
    def _print_traceback(ctx: click.Context) -> None:
        error = sys.exception()
        if _debug(ctx) and not isinstance(error, click.UsageError):
            click.echo("".join(traceback.format_exception(error)), err=True)
        if _debug(ctx) and isinstance(error, FunctionFailedError):
            for failure in error.others:  # the causes of other failures are not chained to the error
                if failure.attempts and (text := failure.attempts[-1].traceback):
                    click.echo(f"Function {failure.function_id!r}, last attempt:\n{text}", err=True)


@contextmanager
def _silent_loggers(ctx: click.Context) -> Iterator[None]:
    """Silence Dask's log, unless --debug is given: it repeats at length errors that are raised anyway."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    before = [logger.level for logger in loggers]
    ctx.meta["handoff_dask.loggers"] = list(zip(loggers, before, strict=True))
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if _debug(ctx):
        _restore(ctx)
    try:
        yield
    finally:
        _restore(ctx)


def _restore(ctx: click.Context) -> None:
    for logger, level in ctx.meta.get("handoff_dask.loggers", ()):
        logger.setLevel(level)


def _debug(ctx: click.Context) -> bool:
    """Return whether --debug was given, before or after the name of the command."""
    return bool(ctx.find_root().meta.get("handoff_dask.debug"))


def _enable_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["handoff_dask.debug"] = True
        _restore(ctx)  # after the name of the command, --debug is parsed once the loggers are silent


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_enable_debug,
    help="Show the traceback of an error, and Dask's log.",
)
