"""A mesh on this machine for tests of the command line: its folder, its commands, its end."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.bootstrap import environment
from mesh.supervisor import MeshRun, find_run

AGENTS = """
import anyio
from pydantic import BaseModel
from mesh import Agent, Context, Fail, Handoff, Reply

class Greeting(BaseModel):
    name: str
    times: int = 1

AGE = 7
greeter = Agent("greeter", behaviour="1.0.0", description="Greets.")
shouter = Agent("shouter")

@greeter.on(Greeting)
async def greet(ctx: Context, greeting: Greeting) -> Handoff | Fail:
    if greeting.name == "nobody":
        return Fail("there is nobody to greet")
    if greeting.name == "poison":
        raise ValueError("it cannot be done")
    if greeting.name == "slow":
        await anyio.sleep(60)
    ctx.decide("tone", "loud", why="asked for")
    return Handoff("shouter", f"hello {greeting.name}", next_task="shout it")

@shouter.on(str)
async def shout(ctx: Context, text: str) -> Reply:
    return Reply({"said": text.upper(), "count": 1})
"""
MANIFEST = """
[mesh]
nats_port = 0
gateway_port = 0
sync_always = false

[agents.greeter]
agent = "hello:greeter"

[agents.shouter]
agent = "hello:shouter"
replicas = 2
"""
COMMAND = str(Path(sys.executable).with_name("mesh"))
TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its output as NDJSON."""
        return [json.loads(line) for line in self.out.splitlines()]


class Local:
    """A folder with a manifest and two agents, and `mesh` run in it."""

    def __init__(self, folder: Path, manifest: str = MANIFEST) -> None:
        self.folder = folder
        self.data = folder / ".mesh"
        (folder / "hello.py").write_text(AGENTS, encoding="utf-8")
        (folder / "mesh.toml").write_text(manifest, encoding="utf-8")
        self.environment = {
            name: value for name, value in environment().items() if not name.startswith("MESH_")
        }

    def mesh(self, *arguments: str, given: str | None = None) -> Answer:
        """Run one command to its end; a stack trace in what it says is a failure."""
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, given: str | None = None) -> Answer:
        """Run one command that must succeed."""
        answer = self.mesh(*arguments, given=given)
        assert answer.code == 0, f"{arguments}: {answer.code}\n{answer.out}\n{answer.err}"
        return answer

    def run(self) -> MeshRun:
        """The mesh that runs here."""
        run = find_run(self.data)
        assert run is not None
        return run


@contextmanager
def running(local: Local) -> Generator[Local]:
    """A mesh that runs in the background, and leaves nothing when it ends."""
    local.ok("up", "--detach")
    run = local.run()
    try:
        yield local
    finally:
        local.mesh("down")
    alive = [each.name for each in run.services if each.process.alive]
    assert alive == []
    assert not run.supervisor.alive
