"""Running a step's function: in the event loop or in a thread, with its limits, into an event.

Source: design, section 4.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, get_type_hints

import anyio
import anyio.to_thread

from mesh.agent.failure import caught, failure_of
from mesh.agent.payload import encode_value
from mesh.agent.ports import Ports
from mesh.agent.retry import Retry
from mesh.blob.claim import check_in
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.core.payload import Payload
from mesh.errors import HandlerInvalid, MeshError, Retryable, Unavailable, Verdict

__all__ = ["Step", "attempt", "call", "return_type"]

KEY = "idempotency_key"
"""The parameter by which a function is given a key that stays the same over all its attempts."""
_PATIENCE = Backoff(first_s=0.1, limit_s=2.0)
_LONGEST_S = 30 * 24 * 3600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A function to be run once, and what its result is recorded as.

    `undoes` is the ordinal of the registration when it is an undo, 0 otherwise; `ordinal` then is
    that too. `key` is the same for every attempt.
    """

    ordinal: int
    name: str
    # Any: the author's function, of any arguments and result.
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    retry: Retry
    key: str
    undoes: int = 0


async def attempt(step: Step, failed: int, ports: Ports) -> list[e.TaskEvent]:
    """Run a step once.

    Args:
        step: What to run.
        failed: How many attempts failed before.
        ports: For blobs, time and chance.

    Returns:
        What to record: its value, its last failure, or a failed attempt that is to be repeated.

    Raises:
        MeshError: With verdict HALT: the process must stop.
    """
    try:
        value = encode_value(await call(step))
        return [_recorded(step, value=await _kept(value, ports))]
    except BaseException as error:  # noqa: BLE001  # a step may raise anything; it is recorded
        return [_failed(step, caught(error), failed + 1, ports)]


async def _kept(value: Payload, ports: Ports) -> Payload:
    """The value as it is recorded; what keeps the large ones is waited for, the step has run."""
    tries = 0
    while True:
        try:
            return await check_in(value, ports.blobs)
        except Unavailable as error:
            tries += 1
            _log.warning("the value of a step waits for the blob store: %s", error)
            await anyio.sleep(_PATIENCE.delay_s(tries, ports.ids.random()))


async def call(step: Step) -> Any:
    """The function's result; a plain function runs in a thread.

    Raises:
        TimeoutError: It took longer than one try may.
    """
    kwargs = {KEY: step.key} if _takes_key(step.fn) else {}
    try:
        with anyio.fail_after(step.retry.timeout_s):
            if inspect.iscoroutinefunction(step.fn):
                return await step.fn(*step.args, **kwargs)
            found = await anyio.to_thread.run_sync(
                lambda: _in_thread(step.fn, step.args, kwargs), abandon_on_cancel=True
            )
            return await found if inspect.isawaitable(found) else found
    except TimeoutError as error:
        if str(error) or step.retry.timeout_s is None:
            raise
        raise TimeoutError(f"`{step.name}` took longer than {step.retry.timeout_s} s") from error


def _in_thread(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, str]) -> Any:
    try:
        return fn(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt) as error:
        # It ends the thread's run, not the process; what waits for the thread would hang.
        raise RuntimeError(f"raised {type(error).__name__}({error})") from error


def return_type(fn: Callable[..., Any]) -> Any:
    """What a function says it returns; Any if it does not say.

    Raises:
        HandlerInvalid: It says so by a name that exists for type checkers only.
    """
    fn = inspect.unwrap(fn)
    said = getattr(fn, "__annotations__", {}).get("return", Any)
    if not isinstance(said, str):
        return type(None) if said is None else said
    only = SimpleNamespace(__annotations__={"return": said})
    try:
        return get_type_hints(only, globalns=getattr(fn, "__globals__", {}))["return"]
    except NameError as error:
        raise HandlerInvalid(
            f"`{fn.__qualname__}` returns `{said}`, but {error}; import it where it is needed when"
            " the step runs, not for type checkers only"
        ) from error


def _takes_key(fn: Callable[..., Any]) -> bool:
    try:
        return KEY in inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return False  # written in C, without a signature


def _recorded(
    step: Step, value: Payload | None = None, error: Exception | None = None
) -> e.StepRecorded:
    return e.StepRecorded(
        ordinal=0 if step.undoes else step.ordinal,
        name=step.name,
        value=value,
        failure=failure_of(error) if error else None,
        undoes=step.undoes,
    )


def _failed(step: Step, error: Exception, attempts: int, ports: Ports) -> e.TaskEvent:
    if isinstance(error, MeshError) and error.verdict is Verdict.HALT:
        raise error
    _log.warning("step `%s`, attempt %d: %s", step.name, attempts, error)
    hopeless = isinstance(error, MeshError) and error.verdict is Verdict.NEVER
    if hopeless or attempts >= step.retry.attempts:
        return _recorded(step, error=error)
    delay_s = step.retry.backoff.delay_s(attempts, ports.ids.random())
    if isinstance(error, Retryable) and error.after is not None:
        delay_s = min(max(0.0, error.after), _LONGEST_S)
    return e.AttemptFailed(
        failure=failure_of(error),
        retry_at=ports.clock.now() + timedelta(seconds=delay_s),
        ordinal=step.ordinal,
        name=step.name,
    )
