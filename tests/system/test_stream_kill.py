"""Output that is followed while the gateway, the broker and the agent are killed under it."""

import os
import signal
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from mesh.client import Output
from mesh.wire.v1.api_pb2 import Event, Task
from tests.system.mesh_rig import LiveMesh, live_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]

TALKER = """
import time

import anyio
from mesh import Agent, Context, Reply

talker = Agent("talker")

@talker.on(str)
async def talk(ctx: Context, text: str) -> Reply:
    def aloud(part: int) -> None:
        for n in range(40):
            time.sleep(0.02)
            ctx.emit(f"{part}.{n} aloud\\n")

    for part in range(4):
        for n in range(30):
            await anyio.sleep(0.02)
            ctx.emit(f"{part}.{n}\\n")
        await ctx.step(f"part-{part}", aloud, part)
    ctx.emit("end\\n")
    return Reply(text)
"""
MANIFEST = """
[mesh]
nats_port = 0
gateway_port = 0

[agents.talker]
agent = "talk:talker"
"""
SAID = "".join(
    "".join(f"{part}.{n}\n" for n in range(30)) + "".join(f"{part}.{n} aloud\n" for n in range(40))
    for part in range(4)
)
WHOLE = SAID + "end\n"


async def listened(live: LiveMesh, victim: str) -> tuple[str, list[Output]]:
    """The output of one task, with a victim that is killed in its middle."""
    task = await live.client.submit("talker", victim)
    text, pieces, killed = "", list[Output](), False
    async with aclosing(task.stream()) as stream:
        async for piece in stream:
            pieces.append(piece)
            text = piece.added_to(text)
            if not killed and text.endswith("1.9 aloud\n"):
                killed = True
                os.kill(await live.pid(victim), signal.SIGKILL)
    assert killed
    events: list[Event] = []
    async with aclosing(task.watch()) as updates:
        events += [update.event async for update in updates if update.HasField("event")]
    assert (await task.info()).state == Task.COMPLETED
    recorded = [e.body.fields for e in events if e.kind == "task.progress_reported"]
    assert text == "".join(fields["text"].string_value for fields in recorded)
    return text, pieces


async def test_a_stream_is_whole_whoever_is_killed_under_it(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALKER, encoding="utf-8")
    (tmp_path / "mesh.toml").write_text(MANIFEST, encoding="utf-8")
    data = tmp_path / "data"
    with anyio.fail_after(180):
        async with live_mesh(data, tmp_path / "mesh.toml") as live:
            for victim in ("gateway", "nats-server"):
                text, pieces = await listened(live, victim)
                assert text == WHOLE
                assert sum(piece.takes_back for piece in pieces) == 0
                # It came as it was said, not with the record, which has a part in one piece.
                assert len(pieces) > 100
            text, pieces = await listened(live, "talker")
            assert text == WHOLE
            (lost,) = [piece.takes_back for piece in pieces if piece.takes_back]
            # Its part since the last record: the step's words, and the handler's before it.
            kept = SAID[: SAID.index("1.0\n")]
            said = SAID[: SAID.index("1.9 aloud\n")]
            assert lost >= len(said) - len(kept)
