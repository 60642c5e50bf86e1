"""`mesh task watch` and `submit --follow` print what agents emit while they emit it."""

import os
import pty
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from google.protobuf.json_format import Parse

from mesh.client import OutputReader
from mesh.wire.v1.gateway_pb2 import WatchTaskResponse
from tests.services.listening import Cues, recorded, speaker, speaking
from tests.system.local import COMMAND, TIMEOUT_S
from tests.system.shell import Shell, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncGenerator[Shell]:
    async with opened(tmp_path) as made:
        yield made


class Command:
    """One command that runs, and what it has printed so far."""

    def __init__(self, process: Process) -> None:
        self._process, self.out, self.err = process, "", ""

    async def printed(self, text: str) -> None:
        """Wait until it has printed this."""
        assert self._process.stdout is not None
        with anyio.fail_after(TIMEOUT_S):
            while text not in self.out:
                self.out += (await self._process.stdout.receive()).decode()

    async def end(self) -> int:
        """Read it to its end; gives its exit code."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with anyio.fail_after(TIMEOUT_S):
            async for part in self._process.stdout:
                self.out += part.decode()
            async for part in self._process.stderr:
                self.err += part.decode()
            return await self._process.wait()


@asynccontextmanager
async def running(shell: Shell, *arguments: str) -> AsyncGenerator[Command]:
    async with await anyio.open_process(
        [COMMAND, *arguments], cwd=shell.folder, env=shell.environment
    ) as process:
        try:
            yield Command(process)
        finally:
            if process.returncode is None:
                process.kill()


async def begun(shell: Shell) -> str:
    submitted = await shell.mesh("task", "submit", "speaker", "--text", "go", "--json")
    return submitted.json["taskId"]


async def test_follow_prints_text_as_it_comes_and_events_on_lines_of_their_own(
    shell: Shell,
) -> None:
    cues = Cues()
    follow = ("task", "submit", "speaker", "--text", "go", "--follow")
    async with speaking(shell.door, speaker(cues)), running(shell, *follow) as command:
        cues.say("one, ", "two, ")
        await command.printed("one, two, ")
        assert "progress_reported" not in command.out
        cues.say("three", "/four", "")
        assert await command.end() == 0
    lines = command.out.splitlines()
    text = lines.index("one, two, threefour")
    assert command.out.count("one, ") == 1
    assert "task.submitted" in lines[0]
    assert any("task.progress_reported" in line for line in lines[text + 1 :])
    assert any("task.completed" in line for line in lines[text:])
    assert "done" in lines[-1]


async def test_watch_says_what_a_crash_made_void(shell: Shell) -> None:
    cues = Cues()
    async with AsyncExitStack() as stack:
        async with speaking(shell.door, speaker(cues)):
            task_id = await begun(shell)
            watch = await stack.enter_async_context(running(shell, "task", "watch", task_id))
            cues.say("kept, ", "/kept too, ", "lost")
            await watch.printed("lost")
        async with speaking(shell.door, speaker(cues)):
            cues.say("kept, ", "/kept too, ", "another end", "")
            assert await watch.end() == 0
    assert "\nlost\n" in watch.out
    assert "\nanother end\n" in watch.out
    assert watch.out.count("kept, ") == 1
    assert "the last 4 characters of output are void" in watch.err


async def test_json_has_enough_to_put_the_text_together(shell: Shell) -> None:
    cues = Cues()
    async with speaking(shell.door, speaker(cues)):
        task_id = await begun(shell)
        async with running(shell, "task", "watch", task_id, "--json") as watch:
            cues.say("a", "b")
            await watch.printed('"text": "b"')
            cues.say("/c", "d", "")
            assert await watch.end() == 0
    reader, text, live = OutputReader(), "", 0
    for line in watch.out.splitlines():
        update = Parse(line, WatchTaskResponse())
        live += update.HasField("live")
        for piece in reader.take(update):
            text = piece.added_to(text)
    assert text == "abcd" == await recorded(shell.rig.bus, task_id)
    assert live >= 2


async def test_what_an_agent_says_does_not_steer_a_terminal(shell: Shell) -> None:
    cues = Cues()
    ours, theirs = pty.openpty()
    async with speaking(shell.door, speaker(cues)):
        cues.say("\x1b[2Jred\x07 é\n", "")
        done = await anyio.run_process(
            [COMMAND, "task", "submit", "speaker", "--text", "go", "--follow"],
            cwd=shell.folder,
            env=shell.environment,
            stdout=theirs,
        )
    assert done.returncode == 0
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        shown = await anyio.to_thread.run_sync(terminal.read1)
    assert "[2Jred é".encode() in shown
    assert b"\x1b[2J" not in shown


async def test_a_bad_outcome_is_an_exit_code_and_an_unknown_task_an_error(shell: Shell) -> None:
    cues = Cues()
    async with speaking(shell.door, speaker(cues)):
        task_id = await begun(shell)
        cues.say("said")
        async with running(shell, "task", "watch", task_id) as watch:
            await watch.printed("said")
            await shell.mesh("task", "cancel", task_id)
            assert await watch.end() == 1
    assert "CANCELED" in watch.out
    await shell.mesh("task", "watch", "0" * 32, code=4)
