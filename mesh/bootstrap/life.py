"""The life of one service process: its log, its readiness, and who may end it."""

import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio

__all__ = ["Life", "lived", "set_up_logging"]

_log = logging.getLogger(__name__)


class Life:
    """What a service must know of its process: `stop` is set when it should end."""

    def __init__(self, ready_fd: int | None) -> None:
        self.stop = anyio.Event()
        self._ready_fd = ready_fd
        self._serves = False

    def ready(self) -> None:
        """Tell the supervisor, if there is one, that this process serves."""
        self._serves = True
        _log.info("ready, pid %d", os.getpid())
        if self._ready_fd is not None:
            os.write(self._ready_fd, b"\n")
            os.close(self._ready_fd)
            self._ready_fd = None

    async def cancel_opening(self, scope: anyio.CancelScope) -> None:
        """Cancel what opens this process if it is told to stop before it serves.

        Until then it has taken nothing up, and what it opens may wait for others; once it serves
        it minds `stop` itself.
        """
        await self.stop.wait()
        if not self._serves:
            scope.cancel()


@asynccontextmanager
async def lived(*, ready_fd: int | None, parent_fd: int | None) -> AsyncGenerator[Life]:
    """Listen to SIGTERM, SIGINT and the end of the supervisor; each of them sets `stop`."""
    life = Life(ready_fd)
    async with anyio.create_task_group() as tasks:
        await tasks.start(_heed_signals, life)
        if parent_fd is not None:
            tasks.start_soon(_heed_parent, life, parent_fd)
        try:
            yield life
        finally:
            tasks.cancel_scope.cancel()


async def _heed_signals(
    life: Life, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _log.info("%s: stopping", number.name)
            life.stop.set()


async def _heed_parent(life: Life, parent_fd: int) -> None:
    # Nobody ever writes to it: readable means closed.
    await anyio.wait_readable(parent_fd)
    _log.warning("the supervisor is gone: stopping")
    life.stop.set()


class _OneLine(logging.Formatter):
    """Instant, level, service, message, and where it comes from when that is not the mesh."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        where = "" if record.name.startswith("mesh") else f" [{record.name}]"
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        level = record.levelname.lower()
        # A record is a line: what it quotes must not look like the next one.
        text = text.rstrip().replace("\n", "\n    ")
        return f"{at.replace('+00:00', 'Z')} {level:<7} {self._service}{where}: {text}"


def set_up_logging(service: str, level: str) -> None:
    """Log to stderr, one line a record; other people's libraries only from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(service))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("mesh", "services", "__main__"):
        logging.getLogger(name).setLevel(level.upper())
