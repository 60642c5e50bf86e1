"""Where `mesh` commands are run against a gateway in this process."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from mesh.bootstrap import environment
from mesh.core import event as e
from mesh.gateway.desk import Desk
from tests.runtime.gateway_rig import FAILURE, GatewayRig, submission
from tests.services.door import Door
from tests.system.local import COMMAND, TIMEOUT_S, Answer


@dataclass(frozen=True, slots=True)
class Shell:
    """Where `mesh` is run, and what is behind it."""

    folder: Path
    address: str
    door: Door
    desk: Desk

    @property
    def rig(self) -> GatewayRig:
        """Where an agent's events are written."""
        return self.door.rig

    @property
    def environment(self) -> dict[str, str]:
        """What the commands are told: the address, and nothing of this machine's meshes."""
        kept = {k: v for k, v in environment().items() if not k.startswith("MESH_")}
        return {**kept, "MESH_GATEWAY": self.address}

    async def mesh(self, *arguments: str, given: str = "", code: int = 0) -> Answer:
        """Run one command to its end; it must give this exit code."""
        with anyio.fail_after(TIMEOUT_S):
            done = await anyio.run_process(
                [COMMAND, *arguments],
                cwd=self.folder,
                env=self.environment,
                input=given.encode(),
                check=False,
            )
        answer = Answer(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in answer.err, answer.err
        assert answer.code == code, f"{arguments}: {answer.code}\n{answer.out}\n{answer.err}"
        return answer

    async def begun(self, *events: e.TaskEvent) -> str:
        """A task of the planner, and what the planner wrote."""
        task_id = (await self.desk.submit(submission())).task.task_id
        await self.rig.act(task_id, e.WorkStarted(), *events)
        return task_id

    async def dead(self) -> str:
        """A task of the planner that nobody could run."""
        task_id = await self.begun()
        turn = (await self.rig.task(task_id)).turn
        assert turn is not None
        letter = e.DeadLettered(
            delivery_id=turn.delivery_id,
            delivery_position=turn.delivery_position,
            attempts=5,
            failure=FAILURE,
        )
        await self.rig.act(task_id, letter)
        await self.door.recorded()
        return task_id


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[Shell]:
    door = Door()
    async with (
        door.rig.agent("planner"),
        door.open_ledger(),
        door.open_gateway() as (address, desk),
    ):
        yield Shell(folder, address, door, desk)
