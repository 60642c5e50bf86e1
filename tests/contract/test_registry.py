# pyright: reportUnknownMemberType=false
# nats-py leaves its keyword parameters without types.

import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import PIPE

import anyio
import anyio.lowlevel
import pytest
from nats.js import JetStreamContext

from mesh.errors import NameInvalid, StreamDrifted, Unavailable
from mesh.registry.inproc import InprocRegistry
from mesh.registry.nats_kv import NatsRegistry, nats_registry
from mesh.registry.port import Card, InputType, Presence, Registry
from mesh.testing.broker import Broker, open_broker, open_cluster
from tests.contract.nats_client import connected

STARTED = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
TTL_S = 2.0  # renewed three times within it; a busy machine may miss one
TEXT = InputType(schema="", content_type="text/plain")
TICKET = InputType(
    schema="ticket.opened.v1", content_type="application/json", json_schema='{"type": "object"}'
)


def card(name: str, version: str = "1.0.0") -> Card:
    return Card(
        name=name,
        behaviour_version=version,
        inputs=(TICKET, TEXT),
        concurrency=4,
        description="räumt auf",
    )


def presence(agent: str, instance: str = "1-a", after_s: float = 0) -> Presence:
    return Presence(
        agent=agent,
        instance=instance,
        behaviour_version="1.0.0",
        host="here",
        pid=os.getpid(),
        concurrency=4,
        started_at=STARTED + timedelta(seconds=after_s),
    )


class RegistryContract:
    """Behaviour of any `Registry`; the subclass provides a `registry` fixture."""

    async def test_an_empty_registry_answers(self, registry: Registry) -> None:
        assert await registry.card("reader") is None
        assert await registry.cards() == []
        assert await registry.presences() == []
        assert await registry.presences("reader") == []

    async def test_what_was_announced_is_found(self, registry: Registry) -> None:
        async with registry.announce(card("reader"), presence("reader")):
            assert await registry.card("reader") == card("reader")
            assert await registry.cards() == [card("reader")]
            assert await registry.presences() == [presence("reader")]
            assert await registry.presences("reader") == [presence("reader")]

    async def test_leaving_removes_the_presence_and_keeps_the_card(
        self, registry: Registry
    ) -> None:
        async with registry.announce(card("reader"), presence("reader")):
            pass
        assert await registry.presences() == []
        assert await registry.card("reader") == card("reader")

    async def test_who_comes_back_is_found_again(self, registry: Registry) -> None:
        for _ in range(2):
            async with registry.announce(card("reader"), presence("reader")):
                assert await registry.presences() == [presence("reader")]

    async def test_agents_come_by_name_and_instances_by_start(self, registry: Registry) -> None:
        writer = presence("writer")
        young, old = presence("reader", "2-b", 5), presence("reader", "9-c", 1)
        async with AsyncExitStack() as stack:
            for each in (writer, young, old):
                await stack.enter_async_context(registry.announce(card(each.agent), each))
            assert await registry.presences() == [old, young, writer]
            assert await registry.presences("reader") == [old, young]
            assert await registry.cards() == [card("reader"), card("writer")]

    async def test_names_that_begin_alike_are_told_apart(self, registry: Registry) -> None:
        async with registry.announce(card("reader-2"), presence("reader-2")):
            assert await registry.presences("reader") == []
            assert await registry.card("reader") is None

    async def test_the_last_card_announced_wins(self, registry: Registry) -> None:
        async with (
            registry.announce(card("reader", "2.0.0"), presence("reader", "1-a")),
            registry.announce(card("reader", "1.9.0"), presence("reader", "2-b")),
        ):
            assert await registry.card("reader") == card("reader", "1.9.0")

    async def test_an_error_inside_leaves_as_it_was(self, registry: Registry) -> None:
        with pytest.raises(ValueError, match=r"^mine$"):
            async with registry.announce(card("reader"), presence("reader")):
                raise ValueError("mine")
        assert await registry.presences() == []

    async def test_who_is_cancelled_still_leaves(self, registry: Registry) -> None:
        with anyio.CancelScope() as scope:
            async with registry.announce(card("reader"), presence("reader")):
                scope.cancel()
                await anyio.sleep_forever()
        assert await registry.presences() == []


class TestInproc(RegistryContract):
    @pytest.fixture
    def registry(self) -> Registry:
        return InprocRegistry()


@pytest.mark.live
class TestNatsKv(RegistryContract):
    @pytest.fixture
    async def server(self, tmp_path: Path) -> AsyncGenerator[Broker]:
        async with open_broker(tmp_path) as server:
            yield server

    @pytest.fixture
    async def js(self, server: Broker) -> AsyncGenerator[JetStreamContext]:
        async with connected(server.url) as client:
            yield client.jetstream(timeout=1)

    @pytest.fixture
    async def registry(self, js: JetStreamContext) -> NatsRegistry:
        return await nats_registry(js, tenant="t", presence_s=TTL_S)

    async def test_a_killed_process_vanishes(self, registry: NatsRegistry, server: Broker) -> None:
        command = [sys.executable, "-m", "tests.contract.announcer", server.url, str(TTL_S)]
        process = await anyio.open_process(command, stdout=PIPE, cwd=Path(__file__).parents[2])
        try:
            assert process.stdout is not None
            with anyio.fail_after(20):
                assert await process.stdout.receive() == b"announced\n"
            [found] = await registry.presences("reader")
            assert found.pid == process.pid
        finally:
            process.send_signal(signal.SIGKILL)
            await process.aclose()
        assert await registry.presences("reader") == [found]
        with anyio.fail_after(TTL_S + 4):
            await _until(registry, lambda all_: all_ == [])
        assert await registry.card("reader") is not None

    async def test_who_lives_stays_longer_than_the_ttl(self, registry: NatsRegistry) -> None:
        async with registry.announce(card("reader"), presence("reader")):
            with anyio.move_on_after(2 * TTL_S):
                while True:
                    assert await registry.presences() == [presence("reader")]
                    await anyio.sleep(TTL_S / 20)

    async def test_a_restarted_broker_knows_all_again(
        self, registry: NatsRegistry, server: Broker
    ) -> None:
        async with registry.announce(card("reader"), presence("reader")):
            await server.restart()
            with anyio.fail_after(10):
                await _until(registry, lambda all_: all_ == [presence("reader")])
            assert await registry.card("reader") == card("reader")

    async def test_a_broker_that_lost_everything_is_told_again(
        self, registry: NatsRegistry, js: JetStreamContext
    ) -> None:
        async with registry.announce(card("reader"), presence("reader")):
            await js.delete_key_value("mesh-t-cards")
            await js.delete_key_value("mesh-t-presences")
            with anyio.fail_after(10):
                await _until(registry, lambda all_: all_ == [presence("reader")])
            assert await registry.card("reader") == card("reader")

    async def test_telling_again_does_not_undo_a_newer_card(
        self, registry: NatsRegistry, js: JetStreamContext
    ) -> None:
        async with registry.announce(card("reader", "1.0.0"), presence("reader")):
            async with registry.announce(card("reader", "2.0.0"), presence("reader", "2-b")):
                pass
            await js.delete_key_value("mesh-t-presences")
            with anyio.fail_after(10):
                await _until(registry, lambda all_: all_ == [presence("reader")])
            assert await registry.card("reader") == card("reader", "2.0.0")

    async def test_leaving_a_dead_broker_is_quick(
        self, registry: NatsRegistry, server: Broker
    ) -> None:
        with anyio.fail_after(4):
            async with registry.announce(card("reader"), presence("reader")):
                await server.kill()

    async def test_a_dead_broker_is_unavailable(
        self, registry: NatsRegistry, server: Broker
    ) -> None:
        await server.kill()
        for ask in (registry.cards(), registry.presences(), registry.card("reader")):
            with pytest.raises(Unavailable):
                await ask
        with pytest.raises(Unavailable):
            async with registry.announce(card("reader"), presence("reader")):
                pass

    @pytest.mark.parametrize("instance", ["", "a.b", "a b", "*", ">"])
    async def test_an_instance_that_is_no_key_is_refused(
        self, registry: NatsRegistry, instance: str
    ) -> None:
        with pytest.raises(NameInvalid, match="instance"):
            async with registry.announce(card("reader"), presence("reader", instance)):
                pass

    async def test_fields_of_a_newer_version_are_left_out(
        self, registry: NatsRegistry, js: JetStreamContext
    ) -> None:
        async with registry.announce(card("reader"), presence("reader")):
            kv = await js.key_value("mesh-t-cards")
            stored = (await kv.get("reader")).value or b""
            await kv.put("reader", stored.replace(b'{"', b'{"newer":[1],"', 1))
            assert await registry.card("reader") == card("reader")

    async def test_a_bucket_with_other_settings_is_reported(
        self, registry: NatsRegistry, js: JetStreamContext
    ) -> None:
        with pytest.raises(StreamDrifted, match="mesh-t-presences"):
            await nats_registry(js, tenant="t", presence_s=TTL_S * 2)
        assert await registry.cards() == []

    async def test_on_three_nodes_a_card_is_found_at_once(self, tmp_path: Path) -> None:
        async with open_cluster(tmp_path) as cluster, connected(cluster.url) as client:
            registry = await nats_registry(client.jetstream(timeout=2), tenant="t", replicas=3)
            for n in range(20):
                async with registry.announce(card(f"a{n}"), presence(f"a{n}")):
                    assert await registry.card(f"a{n}") == card(f"a{n}")
                    assert await registry.presences(f"a{n}") == [presence(f"a{n}")]

    async def test_tenants_do_not_see_each_other(
        self, registry: NatsRegistry, js: JetStreamContext
    ) -> None:
        other = await nats_registry(js, tenant="u", presence_s=TTL_S)
        mine = replace(presence("reader"), host="mine")
        async with registry.announce(card("reader"), mine):
            assert await other.presences() == []
            assert await other.card("reader") is None


async def _until(registry: Registry, met: Callable[[list[Presence]], bool]) -> None:
    while True:
        try:
            if met(await registry.presences()):
                return
        except Unavailable:
            await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.02)
