"""What the README shows is what happens."""

import re
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from mesh.client.handle import TaskHandle
from mesh.wire.v1.api_pb2 import Task
from tests.system.mesh_rig import COMMAND, live_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]

README = (Path(__file__).parents[2] / "README.md").read_text()
FREE_PORTS = "[mesh]\nnats_port = 0\ngateway_port = 0\n\n"


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


async def test_the_agent_of_your_own_runs_as_shown(tmp_path: Path) -> None:
    agents, script, *_ = blocks("python")
    (tmp_path / "agents.py").write_text(agents)
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "mesh.toml").write_text(FREE_PORTS + blocks("toml")[0])
    async with live_mesh(tmp_path / ".mesh", tmp_path / "mesh.toml") as live:
        shown = await live.run("task", "submit", "shout", "--text", "hello", "--wait")
        assert "HELLO -- upper case" in shown
        ran = await anyio.run_process([sys.executable, "script.py"], cwd=tmp_path)
        assert ran.stdout.decode() == "HELLO -- upper case\n"


async def test_the_work_that_lasts_waits_for_its_answer_as_shown(tmp_path: Path) -> None:
    (tmp_path / "trip.py").write_text(next(b for b in blocks("python") if "book_flight" in b))
    named = '[agents.trip]\nagent = "trip:trip"\n[agents.hotel]\nagent = "trip:hotel"\n'
    (tmp_path / "mesh.toml").write_text(FREE_PORTS + named)
    async with live_mesh(tmp_path / ".mesh", tmp_path / "mesh.toml") as live:
        for answer, ends in (("true", "COMPLETED"), ("false", "FAILED")):
            task = await live.client.submit("trip", "Bern")
            await reached(task, "INPUT_REQUIRED")
            assert "flight to Bern" in await live.run("task", "show", task.id)
            await live.run("task", "answer", task.id, "--input", answer)
            await reached(task, ends)


async def reached(task: TaskHandle, state: str) -> None:
    """Wait for a state of a task."""
    with anyio.fail_after(30):
        async with aclosing(task.watch()) as updates:
            async for update in updates:
                if Task.State.Name(update.task.state) == state:
                    return


def commands() -> list[list[str]]:
    """Every command that the README names, without its arguments."""
    named = re.findall(r"`mesh ((?:(?:task|events|agents|dlq) )?[a-z]+)", README)
    return [name.split() for name in sorted(set(named))]


async def test_every_command_that_the_readme_names_is_there() -> None:
    assert len(commands()) >= 12
    for command in commands():
        shown = await anyio.run_process(
            [COMMAND, *command, "--help"], check=False, stdin=subprocess.DEVNULL
        )
        assert shown.returncode == 0, command


async def test_every_option_that_the_readme_names_is_there() -> None:
    for command, options in re.findall(r"`mesh ([a-z]+)([^`]*--[^`]*)`", README):
        name = [command, options.split()[0]] if command == "task" else [command]
        shown = await anyio.run_process([COMMAND, *name, "--help"], stdin=subprocess.DEVNULL)
        for option in re.findall(r"--[a-z]+", options):
            assert option in shown.stdout.decode(), (name, option)
