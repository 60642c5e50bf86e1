"""A process that stands still longer than its lease does nothing twice when it goes on."""

import os
import random
import signal
from pathlib import Path

import anyio
import pytest

from tests.system.durable_rig import durable_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]
SEED = 20261122


async def test_an_agent_that_was_paused_runs_no_step_that_another_recorded(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(SEED)
    async with durable_mesh(tmp_path, {"stepper": 2}) as live:
        task_ids: list[str] = []
        for _ in range(5 if request.config.getoption("--bars") else 1):
            task = await live.client.submit("stepper", "x")
            task_ids.append(task.id)
            zombie = (await live.more_done()).pid
            await anyio.sleep(chance.uniform(0, 0.3))
            os.kill(zombie, signal.SIGSTOP)
            try:
                while (await live.more_done()).pid == zombie:
                    pass
            finally:
                os.kill(zombie, signal.SIGCONT)
            await task.result(timeout_s=60)
            assert len({done.pid for done in live.done(task.id)}) == 2
        await live.check_steps(task_ids)
        await live.check_store_is_log(task_ids)
