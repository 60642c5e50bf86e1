"""Cards and presences in two NATS KV buckets per tenant.

Cards stay for ever, on file. Presences expire, in memory: whoever lives says so again within
seconds after the broker lost them. Nothing here uses the client's `keys` or `watch`: they make a
consumer, fail on an empty bucket, and wait for ever if what they expect expires first.
"""
# pyright: reportUnknownMemberType=false
# nats-py leaves its keyword parameters without types.

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
import nats.errors
import nats.js.errors
from nats.js import JetStreamContext, api

from mesh.core.subject import check_name
from mesh.errors import NameInvalid, StreamDrifted, Unavailable
from mesh.registry.entry import decode_card, decode_presence, encode_card, encode_presence
from mesh.registry.port import PRESENCE_S, Card, Presence

__all__ = ["NatsRegistry", "nats_registry"]

_log = logging.getLogger(__name__)
_INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_STALE = 10071  # another message stands on the subject than the one expected
_IN_USE = 10058  # the stream exists with another configuration
_RETRY_S = 0.5
_LEAVE_S = 2.0


async def nats_registry(
    js: JetStreamContext, *, tenant: str, replicas: int = 1, presence_s: float = PRESENCE_S
) -> "NatsRegistry":
    """The registry of a tenant, in buckets that are made if they are not there.

    Args:
        js: A connected client's JetStream.
        tenant: Name of the tenant.
        replicas: Copies of each bucket, count, >= 1.
        presence_s: Seconds after which a silent instance counts as gone.

    Raises:
        StreamDrifted: A bucket is there with other settings.
        Unavailable: JetStream does not answer.
    """
    registry = NatsRegistry(js, tenant=tenant, replicas=replicas, presence_s=presence_s)
    await registry.make_buckets()
    return registry


class NatsRegistry:
    """A `Registry` over two buckets; made by `nats_registry`."""

    def __init__(
        self, js: JetStreamContext, *, tenant: str, replicas: int, presence_s: float
    ) -> None:
        self._js = js
        self._replicas = replicas
        self._presence_s = presence_s
        self._cards = f"mesh-{tenant}-cards"
        self._presences = f"mesh-{tenant}-presences"

    async def make_buckets(self) -> None:
        """Make what is not there; safe to repeat."""
        await self._make(self._cards, api.StorageType.FILE, None)
        await self._make(self._presences, api.StorageType.MEMORY, self._presence_s)

    @asynccontextmanager
    async def announce(self, card: Card, presence: Presence) -> AsyncGenerator[None]:
        """Store the card, and renew the presence until the context ends, which removes it.

        Raises:
            NameInvalid: The agent's or the instance's name cannot be a key.
            Unavailable: The first announcement failed; later ones are repeated.
        """
        key = _key_of(presence)
        await self._put(self._cards, check_name(card.name), encode_card(card))
        try:
            async with anyio.create_task_group() as tasks:
                await self._put(self._presences, key, encode_presence(presence))
                tasks.start_soon(self._renew, card, key, encode_presence(presence))
                yield
                tasks.cancel_scope.cancel()
        except ExceptionGroup as group:
            # The renewing is nobody's business: what the context's body raised leaves as it was.
            first, *others = group.exceptions
            if others:
                raise
            raise first from first.__cause__
        finally:
            # Shielded: a drain that is cancelled still says goodbye, if the broker listens.
            with anyio.move_on_after(_LEAVE_S, shield=True):
                await self._leave(key)

    async def card(self, agent: str) -> Card | None:
        """The newest card of an agent, None if it was never registered."""
        with _translated(self._cards):
            try:
                # Asked of the leader: a replica may not have a card announced just now.
                message = await self._js.get_last_msg(
                    f"KV_{self._cards}", f"$KV.{self._cards}.{check_name(agent)}"
                )
            except nats.js.errors.NotFoundError:
                return None
        return decode_card(message.data or b"")

    async def cards(self) -> list[Card]:
        """Every agent ever registered, by name."""
        found = [decode_card(raw) async for raw in self._values(self._cards, ">")]
        return sorted(found, key=lambda card: card.name)

    async def presences(self, agent: str = "") -> list[Presence]:
        """Live instances, of one agent or of all, by agent and start."""
        keys = f"{check_name(agent)}.*" if agent else ">"
        found = [decode_presence(raw) async for raw in self._values(self._presences, keys)]
        return sorted(found, key=lambda p: (p.agent, p.started_at, p.instance))

    async def _renew(self, card: Card, key: str, presence: bytes) -> None:
        lost = False
        while True:
            await anyio.sleep(_RETRY_S if lost else self._presence_s / 3)
            try:
                if lost:
                    await self.make_buckets()
                    # Only where none stands: an older process must not undo a newer one's card.
                    await self._put(self._cards, card.name, encode_card(card), only_first=True)
                await self._put(self._presences, key, presence)
            except Unavailable as error:
                if not lost:
                    _log.warning("presence `%s` could not be renewed: %s", key, error)
                lost = True
            else:
                if lost:
                    _log.info("presence `%s` is announced again", key)
                lost = False

    async def _leave(self, key: str) -> None:
        try:
            with _translated(self._presences):
                await self._js.publish(
                    f"$KV.{self._presences}.{key}", headers={"KV-Operation": "DEL"}
                )
        except Unavailable as error:
            _log.info("presence `%s` will expire by itself: %s", key, error)

    async def _values(self, bucket: str, keys: str) -> AsyncIterator[bytes]:
        """The values under keys; one message is one key, because no bucket keeps old ones."""
        seq = 0
        while True:
            with _translated(bucket):
                try:
                    message = await self._js.get_msg(
                        f"KV_{bucket}", seq=seq + 1, subject=f"$KV.{bucket}.{keys}", next=True
                    )
                except nats.js.errors.NotFoundError:
                    return
            seq = message.seq or 0
            if message.data:  # the marker of one that left, or was expired, holds nothing
                yield message.data

    async def _put(self, bucket: str, key: str, value: bytes, *, only_first: bool = False) -> None:
        headers = {api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: "0"} if only_first else None
        with _translated(bucket):
            try:
                await self._js.publish(
                    f"$KV.{bucket}.{key}", value, stream=f"KV_{bucket}", headers=headers
                )
            except nats.js.errors.APIError as error:
                if not (only_first and error.err_code == _STALE):
                    raise

    async def _make(self, bucket: str, storage: api.StorageType, ttl_s: float | None) -> None:
        with _translated(bucket):
            try:
                await self._js.create_key_value(
                    bucket=bucket, storage=storage, ttl=ttl_s, replicas=self._replicas
                )
            except nats.js.errors.BadRequestError as error:
                if error.err_code != _IN_USE:
                    raise
                raise StreamDrifted(
                    f"bucket `{bucket}` exists with other settings than {self._replicas}"
                    f" replica(s), {storage.value}, {ttl_s or 'no'} seconds to live:"
                    f" {error.description}"
                ) from error


def _key_of(presence: Presence) -> str:
    if not _INSTANCE.fullmatch(presence.instance):
        raise NameInvalid(
            f"instance `{presence.instance}` must be 1 to 128 characters of a-z, A-Z, 0-9, _ and -"
        )
    return f"{check_name(presence.agent)}.{presence.instance}"


@contextmanager
def _translated(bucket: str) -> Generator[None]:
    try:
        yield
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"bucket `{bucket}`: {error or type(error).__name__}") from error
