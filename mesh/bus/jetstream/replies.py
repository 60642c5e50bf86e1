"""Questions to the broker and their answers: one wildcard subscription, a token for each call.

Nothing here waits longer than its caller allows, and nothing is left behind when it returns.
"""

import json
import random
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import anyio
from nats.aio.msg import Msg

from mesh.bus.jetstream.connection import Connection
from mesh.errors import ConfigError, Unavailable, Unresolved

__all__ = ["Asked", "Replies", "open_replies"]

_NO_RESPONDERS = "503"


@dataclass(slots=True)
class Asked:
    """A question under way; `answers` in the order they came, `ended` tells why no more come."""

    subjects: frozenset[str]
    enough: Callable[[Msg], bool]
    answers: list[Msg]
    done: anyio.Event
    ended: str = ""
    denied: str = ""

    def receive(self, message: Msg) -> None:
        """Take an answer."""
        self.answers.append(message)
        if self.enough(message):
            self.done.set()

    def end(self, reason: str) -> None:
        """No more answers will come."""
        if not self.done.is_set():
            self.ended = reason
            self.done.set()


class Replies:
    """Where answers come in, for everything that one bus asks."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._prefix = connection.new_inbox()
        self._random = random.Random()
        self._tokens = count(1)
        self._asked: dict[str, Asked] = {}

    @property
    def pending(self) -> int:
        """How many questions are under way."""
        return len(self._asked)

    def fresh_name(self) -> str:
        """A name that nobody else uses, in any process."""
        return f"{self._prefix.rpartition('.')[2]}-{next(self._tokens)}"

    def jitter(self) -> float:
        """A number in [0, 1), to spread retries."""
        return self._random.random()

    @property
    def filter(self) -> str:
        """What to subscribe to."""
        return f"{self._prefix}.*"

    async def on_message(self, message: Msg) -> None:
        """Give an answer to whoever asked; one that comes too late is nobody's."""
        asked = self._asked.get(message.subject)
        if asked is not None:
            asked.receive(message)

    def on_lost(self) -> None:
        """The connection broke: what was asked over it stays unanswered."""
        for asked in list(self._asked.values()):
            asked.end("the connection was lost")

    def on_denied(self, subject: str) -> None:
        """The broker forbids to publish there."""
        for asked in list(self._asked.values()):
            if subject in asked.subjects:
                asked.denied = subject
                asked.end("denied")

    @contextmanager
    def asking(
        self, subjects: frozenset[str], enough: Callable[[Msg], bool]
    ) -> Generator[tuple[str, Asked]]:
        """A reply address and what comes in on it, until the block is left."""
        reply = f"{self._prefix}.{next(self._tokens)}"
        asked = self._asked[reply] = Asked(subjects, enough, [], anyio.Event())
        try:
            yield reply, asked
        finally:
            del self._asked[reply]

    async def connected(self, deadline: float) -> None:
        """Wait for the connection, until `deadline` on the loop's clock.

        Raises:
            Unavailable: It did not come back in time, or is closed for good.
        """
        if self.connection.is_connected:
            return
        with anyio.CancelScope(deadline=deadline):
            await self.connection.until_connected()
        if not self.connection.is_connected:
            raise Unavailable(f"not connected to NATS: {self.connection.last_reason}")

    async def ask(
        self,
        subject: str,
        payload: bytes,
        deadline: float,
        *,
        headers: Mapping[str, str] | None = None,
        enough: Callable[[Msg], bool] = lambda _: True,
    ) -> list[Msg]:
        """Publish and wait for the answers.

        Args:
            subject: Where to.
            payload: What.
            deadline: Instant on the event loop's clock until which to wait.
            headers: With which headers.
            enough: Whether an answer is the last one; every one is, by default.

        Raises:
            Unavailable: Nothing was sent, or nobody is there to answer.
            Unresolved: It was sent, and not answered (in full) in time.
            ConfigError: The broker forbids to publish there.
        """
        await self.connected(deadline)
        with self.asking(frozenset([subject]), enough) as (reply, asked):
            with anyio.CancelScope(deadline=deadline):
                await self.connection.say(subject, payload, reply, headers)
                await asked.done.wait()
            return self.outcome(asked)

    def outcome(self, asked: Asked) -> list[Msg]:
        """The answers to a question that is over.

        Raises:
            Unavailable: Nobody was there to answer.
            Unresolved: Not answered (in full).
            ConfigError: The broker forbade it.
        """
        if asked.denied:
            raise ConfigError(
                f"the broker forbids this process to publish on `{asked.denied}`;"
                " its user needs that permission"
            )
        subject = min(asked.subjects)
        if not asked.done.is_set() or asked.ended:
            raise Unresolved(f"no answer from `{subject}`: {asked.ended or 'timed out'}")
        if status(asked.answers[-1]) == _NO_RESPONDERS:
            raise Unavailable(f"nobody answers `{subject}`: JetStream is not ready, or off")
        return asked.answers

    async def api(self, subject: str, request: Mapping[str, object], deadline: float) -> "Api":
        """Ask the JetStream API once.

        Raises:
            Unavailable: It does not answer now. (Even a request that changes something is safe
                to repeat: those sent from here are idempotent.)
        """
        payload = json.dumps(request).encode() if request else b""
        try:
            (answer,) = await self.ask(f"$JS.API.{subject}", payload, deadline)
        except Unresolved as error:
            raise Unavailable(str(error)) from error
        return Api(json.loads(answer.data))


# The API's answers are JSON whose fields depend on the request: read here, and nowhere else.
class Api(dict[str, Any]):
    """One answer of the JetStream API."""

    @property
    def error_code(self) -> int:
        """NATS's own number of the error, 0 if there is none."""
        return int(self.get("error", {}).get("err_code", 0))

    @property
    def error(self) -> str:
        """The error's text and number."""
        error = self.get("error", {})
        return f"{error.get('description', '')} ({error.get('err_code', 0)})"


def status(message: Msg) -> str:
    """Status of a message that carries one instead of data, else ""."""
    return (message.headers or {}).get("Status", "")


@asynccontextmanager
async def open_replies(connection: Connection) -> AsyncGenerator[Replies]:
    """Subscribe to answers, until the block is left."""
    replies = Replies(connection)
    subscription = await connection.listen(replies.filter, replies.on_message)
    connection.on_lost.append(replies.on_lost)
    connection.on_denied.append(replies.on_denied)
    try:
        yield replies
    finally:
        connection.on_lost.remove(replies.on_lost)
        connection.on_denied.remove(replies.on_denied)
        await connection.finish(subscription)
