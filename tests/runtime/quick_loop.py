"""An event loop whose time passes at once when nobody has anything to do."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.to_thread

from mesh.testing.clock import ManualClock

__all__ = ["FlowingClock", "run_quickly"]


class FlowingClock(ManualClock):
    """Goes with the event loop's time, and can be advanced beyond it."""

    def now(self) -> datetime:
        """As the port says."""
        return super().now() + timedelta(seconds=anyio.current_time())

    def monotonic(self) -> float:
        """As the port says."""
        return super().monotonic() + anyio.current_time()


class _Selector(selectors.DefaultSelector):
    """Skips the waits between timers; not while a thread works, which takes real time."""

    skipped_s = 0.0
    threads: anyio.CapacityLimiter | None = None

    def select(self, timeout: float | None = None) -> Any:
        # Any: the standard library's own list of ready keys, handed through.
        busy = self.threads is not None and self.threads.borrowed_tokens
        if timeout is None or timeout <= 0 or busy:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.skipped_s += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Selector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return super().time() + self._skipping.skipped_s

    def watch(self, threads: anyio.CapacityLimiter) -> None:
        self._skipping.threads = threads


def run_quickly(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario; it is told every time it waits for a timer that it has waited long enough."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)
        loop.watch(anyio.to_thread.current_default_thread_limiter())
        await scenario()

    anyio.run(main, backend_options={"loop_factory": _Loop})
