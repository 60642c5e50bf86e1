"""Bytes that nobody can read, put on the log by hand: dead-lettered, and the mesh goes on."""

import json
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from mesh.bus.jetstream import open_nats
from tests.services.sample import DOCS, QUESTION
from tests.system.mesh_rig import LiveMesh, live_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]

STRANGER = "e" * 32


async def put(live: LiveMesh, subject: str, raw: bytes) -> None:
    """Publish as any client of the broker could."""
    run = json.loads(await anyio.Path(live.data / "mesh.json").read_text())
    async with open_nats(run["nats_url"], "by hand") as connection:
        await connection.request(subject, raw)


async def stored(live: LiveMesh, kind: str, count: int) -> None:
    """Wait until so many events of a kind are on the log."""
    events = live.client.tail(first=1, kind=kind)
    async with aclosing(events):
        async for _ in events:
            count -= 1
            if count == 0:
                return


async def test_an_unreadable_message_is_dead_lettered_with_its_reason(tmp_path: Path) -> None:
    async with live_mesh(tmp_path / "data", environment={"SLOW_S": "0"}) as live:
        request = {"question": QUESTION, "docs": DOCS}
        done = await live.client.submit("planner", request)
        await done.result(timeout_s=30)
        await live.recorded()
        before = await live.client.state(done.id)
        await put(live, f"mesh.slow.s0.planner.{STRANGER}.m.gateway", b"\xffby hand")
        await put(live, f"mesh.slow.s0.log.{done.id}.m.gateway", b"to nobody")
        with anyio.fail_after(30):
            await stored(live, "task.dead_lettered", 2)
            await live.recorded()
        dead = [entry async for entry in live.client.dead_letters()]
        assert {d.task_id for d in dead} == {STRANGER, done.id}
        assert all("not a relay envelope" in d.error.message for d in dead)
        assert not any(d.redrivable for d in dead)
        shown = await live.run("dlq", "list")
        assert "not a relay envelope" in shown
        await live.run("dlq", "redrive", STRANGER, code=4)
        again = await live.client.submit("planner", request)
        assert (await again.result(timeout_s=30))["stats"]["quotes"] > 0
        after = await live.client.state(done.id)
        assert (after.state, after.task.result) == (before.state, before.task.result)
        await live.check_nothing_lost_or_doubled([done.id, again.id])
