"""Streams: made once however many ask, and never silently changed."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from mesh.bus.jetstream import Connection, open_bus, open_nats
from mesh.bus.port import Hint
from mesh.errors import ConfigError, PayloadTooLarge, StreamDrifted
from mesh.testing.broker import Broker, open_broker
from tests.contract.bus_rig import Events, new_task

pytestmark = pytest.mark.live
TENANT = "acme"
STREAM = "MESH_acme_s0"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with open_broker(tmp_path) as broker:
        yield broker


@pytest.fixture
async def nc(broker: Broker) -> AsyncIterator[Connection]:
    async with open_nats(broker.url, "test") as nc:
        yield nc


async def config_of(nc: Connection, stream: str = STREAM) -> dict[str, object]:
    answer = await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
    return json.loads(answer.data)["config"]


async def test_a_hint_larger_than_the_broker_takes_is_refused(tmp_path: Path) -> None:
    async with (
        open_broker(tmp_path, extra="max_payload: 65536") as broker,
        open_nats(broker.url, "test") as nc,
        open_bus(nc, tenant=TENANT) as bus,
        bus.hints("task.*") as hints,
    ):
        with pytest.raises(PayloadTooLarge, match="limit of 65536 bytes"):
            await bus.hint("task.data", bytes(65_537))
        await bus.hint("task.data", bytes(65_536))
        with anyio.fail_after(5):
            assert await anext(hints) == Hint("task.data", bytes(65_536))


async def test_many_processes_open_the_same_mesh_at_once(broker: Broker) -> None:
    async def use() -> None:
        async with (
            open_nats(broker.url, "one of many") as nc,
            open_bus(nc, tenant=TENANT, shards=3) as bus,
        ):
            task = new_task()
            await bus.append([Events(TENANT).submitted(task)], {task: 0})

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(use)
    async with open_nats(broker.url, "after") as nc, open_bus(nc, tenant=TENANT, shards=3) as bus:
        assert sum(log.last for log in await bus.info()) == 20


async def test_a_stream_is_made_as_the_design_says(nc: Connection) -> None:
    async with open_bus(nc, tenant=TENANT, shards=2):
        config = await config_of(nc, "MESH_acme_s1")
    wanted: dict[str, object] = {
        "subjects": ["mesh.acme.s1.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "allow_direct": True,
        "allow_atomic": True,
        "duplicate_window": 120_000_000_000,
    }
    assert {name: config[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("subjects", ["mesh.acme.s0.*.*.m.*"], "subjects: found"),
        ("max_age", 3_600_000_000_000, "max_age: found 3600000000000, wanted 0"),
        ("discard", "old", "discard: found old, wanted new"),
        ("allow_atomic", False, "allow_atomic: found None, wanted True"),
        ("allow_direct", False, "allow_direct: found False, wanted True"),
        ("max_msgs_per_subject", 1, "max_msgs_per_subject: found 1, wanted -1"),
        ("duplicate_window", 1_000_000_000, "duplicate_window: found 1000000000"),
    ],
)
async def test_a_setting_that_drifted_is_named_and_not_overwritten(
    nc: Connection, setting: str, value: object, says: str
) -> None:
    async with open_bus(nc, tenant=TENANT):
        pass
    edited = {**await config_of(nc), setting: value}
    request = json.dumps(edited).encode()
    answer = await nc.request(f"$JS.API.STREAM.UPDATE.{STREAM}", request, timeout=5)
    assert "error" not in json.loads(answer.data)
    before = await config_of(nc)
    with pytest.raises(StreamDrifted, match=says):
        async with open_bus(nc, tenant=TENANT):
            pass
    assert await config_of(nc) == before


async def test_every_difference_is_named_at_once(nc: Connection) -> None:
    request: dict[str, object] = {
        "name": STREAM,
        "subjects": ["mesh.acme.s0.>"],
        "storage": "memory",
    }
    await nc.request(f"$JS.API.STREAM.CREATE.{STREAM}", json.dumps(request).encode(), timeout=5)
    with pytest.raises(StreamDrifted) as drifted:
        async with open_bus(nc, tenant=TENANT):
            pass
    for name in ("storage", "discard", "allow_direct", "allow_atomic", "number of shards"):
        assert f"{name}: found" in str(drifted.value)


async def test_subjects_that_another_stream_has_are_named(nc: Connection) -> None:
    request = json.dumps({"name": "OTHER", "subjects": ["mesh.>"]}).encode()
    await nc.request("$JS.API.STREAM.CREATE.OTHER", request, timeout=5)
    with pytest.raises(StreamDrifted, match="another stream has these subjects"):
        async with open_bus(nc, tenant=TENANT):
            pass


@pytest.mark.parametrize("other", [1, 3])
async def test_the_number_of_shards_is_fixed_at_creation(nc: Connection, other: int) -> None:
    async with open_bus(nc, tenant=TENANT, shards=2):
        pass
    with pytest.raises(StreamDrifted, match=rf"number of shards: found 2, wanted {other}"):
        async with open_bus(nc, tenant=TENANT, shards=other):
            pass
    names = json.loads((await nc.request("$JS.API.STREAM.NAMES", b"", timeout=5)).data)["streams"]
    assert sorted(names) == ["MESH_acme_s0", "MESH_acme_s1"]


async def test_what_the_broker_forbids_is_named(tmp_path: Path) -> None:
    """A denied publish gets no answer from the server, only an error beside the connection."""
    users = """
authorization {
  users = [
    { user: "all", password: "x" }
    { user: "some", password: "x", permissions: {
        publish: { deny: ["mesh.acme.*.writer.>"] } } }
  ]
}
"""
    (tmp_path / "b").mkdir()
    async with open_broker(tmp_path / "b", extra=users) as broker:
        url = broker.url.replace("nats://", "nats://some:x@")
        async with open_nats(url, "some") as nc, open_bus(nc, tenant=TENANT) as bus:
            make, task = Events(TENANT), new_task()
            await bus.append([make.submitted(task)], {task: 0})
            for batch in ([make.handed_off(task)], [make.step(task), make.handed_off(task)]):
                with anyio.fail_after(2), pytest.raises(ConfigError, match=r"forbids.*writer"):
                    await bus.append(batch, {})
            assert len(await bus.history(task)) == 1
