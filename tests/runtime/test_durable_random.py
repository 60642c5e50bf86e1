"""Random programs whose processes are killed and delayed end as if nothing had happened."""

import logging
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.agent.ports import Limits
from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.core.task import State, Task
from tests.runtime.program import PROGRAMS, Program
from tests.runtime.quick_loop import run_quickly
from tests.runtime.stage import LIMITS, Mishap, World, play

_FAULTS = ("kill", "kill", "kill another", "kill all", "repeat", "expire", "stored", "lost", "down")
_ASKED = (e.StepRecorded, e.Delegated, e.TimerSet, e.InputRequested, e.Spent)


def mishaps(*more: str) -> st.SearchStrategy[list[Mishap]]:
    each = st.builds(
        Mishap,
        at=st.integers(3, 80),
        what=st.sampled_from([*_FAULTS, *more]),
        n=st.integers(0, 9),
    )
    return st.lists(each, max_size=8)


MODES = st.sampled_from(
    [
        LIMITS,
        replace(LIMITS, always_replay=True),
        replace(LIMITS, claim_after_s=0.0),
        replace(LIMITS, hold_s=5.0),
    ]
)


def thorough(request: pytest.FixtureRequest, examples: int) -> settings:
    return settings(
        max_examples=examples * (10 if request.config.getoption("--bars") else 1),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=True,
    )


def check(world: World) -> None:
    """What must hold of every task, whatever happened."""
    assert not world.stage.wrong, world.stage.wrong
    for task_id, task in world.tasks.items():
        history = world.bus.records(task_id)
        events = [record.envelope.event for record in history if record.envelope]
        assert len(events) == len(history)
        check_once(events)
        if task_id not in world.abandoned:
            assert sum(isinstance(event, e.CLOSING) for event in events) == 1
            check_undos(task, events)
        check_children(world, task, history)


def check_once(events: list[e.TaskEvent]) -> None:
    """Each thing that was asked for is recorded once in each leg."""
    asked: Counter[int] = Counter()
    for event in events:
        if isinstance(event, e.HandedOff):
            asked.clear()
        if isinstance(event, _ASKED) and event.ordinal:
            asked[event.ordinal] += 1
            assert asked[event.ordinal] == 1, event


def check_undos(task: Task, events: list[e.TaskEvent]) -> None:
    """If the task failed or was cancelled, what was registered was undone, in reverse, once."""
    begins = max((n for n, v in enumerate(events) if isinstance(v, e.HandedOff)), default=0)
    leg = events[begins:]
    registered = [v.ordinal for v in leg if isinstance(v, e.CompensationRegistered)]
    undone = [v.undoes for v in leg if isinstance(v, e.StepRecorded) and v.undoes]
    ends_well = task.state is State.COMPLETED or task.dead_letter is not None
    assert undone == ([] if ends_well else registered[::-1]), (registered, undone)
    for event in leg:
        if isinstance(event, e.StepRecorded) and event.failure:
            assert event.failure.code != "agent.undo_unknown", event


def check_children(world: World, task: Task, history: list[Record]) -> None:
    """Every child was made with its parent's event, and its report came with its end."""
    events = [record.envelope.event for record in history if record.envelope]
    made = [event.child_task_id for event in events if isinstance(event, e.Delegated)]
    assert set(made) == {
        t.task_id for t in world.tasks.values() if t.parent_task_id == task.task_id
    }
    for child_id in made:
        reports = [
            v for v in events if isinstance(v, e.ChildFinished) and v.child_task_id == child_id
        ]
        assert bool(reports) == (child_id not in world.abandoned)
        assert not reports or {report.state for report in reports} == {world.tasks[child_id].state}


def outcome(task: Task) -> tuple[object, ...]:
    failure = task.failure.code if task.failure else ""
    return task.state, task.result, failure, task.dead_letter is not None, task.hops, task.spent


def test_whatever_goes_wrong_a_program_ends_as_if_nothing_had(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "mesh")

    @thorough(request, 300)
    @given(PROGRAMS, mishaps(), MODES)
    def holds(program: Program, wrong: list[Mishap], limits: Limits) -> None:
        async def scenario() -> None:
            calm, alone = await play(program)
            check(calm)
            assert not calm.stills, "a delivery was let go though nothing went wrong"
            world, task = await play(program, wrong, limits)
            check(world)
            assert outcome(task) == outcome(alone)

        run_quickly(scenario)

    holds()


def test_a_tree_that_is_cancelled_anywhere_winds_up(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "mesh")

    @thorough(request, 100)
    @given(PROGRAMS, mishaps("cancel", "cancel", "cancel"), MODES)
    def holds(program: Program, wrong: list[Mishap], limits: Limits) -> None:
        async def scenario() -> None:
            world, _ = await play(program, wrong, limits)
            check(world)
            for task in world.tasks.values():
                assert not task.cancel_requested or task.state is State.CANCELED

        run_quickly(scenario)

    holds()
