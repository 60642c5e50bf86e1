"""`MESH_ALWAYS_REPLAY=1` reaches the processes of agents."""

from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from tests.system.mesh_rig import live_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]

AGENT = """
from mesh import Agent, Context, Reply

fickle, runs = Agent("fickle"), []


@fickle.on(str)
async def handle(ctx: Context, text: str) -> Reply:
    runs.append(text)
    await ctx.step(f"run {len(runs)}", str.upper, text)
    return Reply(text)
"""
MANIFEST = """
[mesh]
nats_port = 0
gateway_port = 0

[agents.fickle]
agent = "moody:fickle"
"""


async def test_a_handler_that_does_not_take_the_same_way_is_parked(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(AGENT)
    (tmp_path / "mesh.toml").write_text(MANIFEST)
    data, manifest = tmp_path / ".mesh", tmp_path / "mesh.toml"
    async with live_mesh(data, manifest, {"MESH_ALWAYS_REPLAY": "1"}) as live:
        task = await live.client.submit("fickle", "x")
        with anyio.fail_after(30):
            async with aclosing(task.watch()) as updates:
                async for update in updates:
                    if update.task.HasField("parked"):
                        break
        parked = (await task.info()).parked
        assert (parked.recorded, parked.asked) == ("step `run 1`", "step `run 2`")
        await task.cancel()
    log = (data / "logs" / "fickle.log").read_text()
    assert "every handler runs again" in log
