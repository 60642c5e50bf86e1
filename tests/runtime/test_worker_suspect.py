import anyio
import pytest
from anyio.lowlevel import checkpoint

from mesh import Agent, Context, Reply
from mesh.core.task import State
from tests.runtime.rig import FAST, Rig, run_worker, running

pytestmark = pytest.mark.anyio
POISON = "poison"


class Deaths:
    """Of the process that runs now."""

    def __init__(self) -> None:
        self.dying = anyio.Event()


def eater(deaths: Deaths) -> Agent:
    agent = Agent("eater")

    @agent.on(str)
    async def eat(ctx: Context, text: str) -> Reply:
        if text == POISON:
            deaths.dying.set()
        for _ in range(500):  # long enough to die beside a poison
            await checkpoint()
        return Reply(text)

    return agent


async def test_a_poison_takes_none_along_that_always_came_again_with_it() -> None:
    rig, deaths = Rig(), Deaths()
    others = [await rig.submit("eater", f"meal {n}") for n in range(FAST.concurrency - 1)]
    poison = await rig.submit("eater", POISON)
    for _ in range(FAST.attempts + 1):
        deaths.dying = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(run_worker, rig.worker(eater(deaths)))
            await deaths.dying.wait()
            tasks.cancel_scope.cancel()  # as a kill would
        ended = [await rig.task(task_id) for task_id in others]
        assert not any(task.dead_letter for task in ended)
    async with running(rig.worker(eater(deaths))):
        dead = await rig.until(poison, State.FAILED)
        for task_id in others:
            await rig.until(task_id, State.COMPLETED)
    assert dead.dead_letter is not None
    assert dead.dead_letter.attempts == FAST.attempts
