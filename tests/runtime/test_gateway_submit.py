from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from mesh.bus.inproc import Fault
from mesh.core.ids import keyed_task_id
from mesh.core.payload import INLINE_LIMIT, PAYLOAD_LIMIT, Payload
from mesh.core.task import State
from mesh.errors import (
    AgentUnknown,
    Invalid,
    KeyConflict,
    MeshError,
    NameInvalid,
    PayloadInvalid,
    PayloadTooLarge,
    TaskUnknown,
    Unavailable,
    Unresolved,
)
from mesh.gateway.desk import Desk
from mesh.gateway.submission import Submission, Submitted
from tests.make import TENANT
from tests.runtime.gateway_rig import HELLO, OTHER, GatewayRig, kinds, submission

REQUEST = "ab" * 16


@pytest.fixture
async def rig() -> AsyncGenerator[GatewayRig]:
    made = GatewayRig()
    async with made.agent("planner"), made.agent("writer"):
        yield made


async def test_a_task_begins_addressed_to_its_agent(rig: GatewayRig) -> None:
    async with rig.desks(1) as (desk,):
        submitted = await desk.submit(submission())
    task = submitted.task
    assert (task.state, task.owner, task.input) == (State.SUBMITTED, "planner", HELLO)
    assert (submitted.warnings, submitted.duplicate, submitted.shard) == ((), False, "s0")
    assert kinds(await rig.bus.history(task.task_id)) == ["submitted"]


async def test_a_get_after_a_submit_at_another_gateway_knows_the_task(rig: GatewayRig) -> None:
    async with rig.desks(2) as (one, other):
        for _ in range(20):
            submitted = await one.submit(submission())
            assert (await other.read(submitted.task.task_id)).task == submitted.task


async def test_one_key_from_two_gateways_at_once_is_one_task(rig: GatewayRig) -> None:
    found: dict[str, list[Submitted]] = {f"key-{n}": [] for n in range(50)}

    async def submit(desk: Desk, key: str) -> None:
        found[key].append(await desk.submit(submission(key=key)))

    async with rig.desks(2) as desks, anyio.create_task_group() as tasks:
        for key in found:
            for desk in (*desks, *desks):
                tasks.start_soon(submit, desk, key)
    for key, answers in found.items():
        assert {a.task.task_id for a in answers} == {keyed_task_id(TENANT, key)}
        # Within one process a repetition cannot be told from the first; across two it can.
        assert sum(not a.duplicate for a in answers) in (1, 2)
        assert kinds(await rig.bus.history(keyed_task_id(TENANT, key))) == ["submitted"]


async def test_a_key_is_known_after_a_restart_of_the_gateway(rig: GatewayRig) -> None:
    async with rig.desks(1) as (desk,):
        before = await desk.submit(submission(key="k"))
    async with rig.desks(1) as (desk,):
        after = await desk.submit(submission(key="k"))
    assert after.task == before.task
    assert (before.duplicate, after.duplicate) == (False, True)


@pytest.mark.parametrize(
    "again",
    [
        submission(key="k", input=OTHER),
        submission(key="k", input=None),
        submission(key="k", input=replace(HELLO, content_type="text/plain")),
        submission(key="k", input=replace(HELLO, schema="greeting.v1")),
        submission("writer", key="k"),
    ],
)
async def test_a_key_with_another_payload_or_agent_is_a_conflict(
    rig: GatewayRig, again: Submission
) -> None:
    async with rig.desks(2) as (one, other):
        first = await one.submit(submission(key="k"))
        for desk in (one, other):
            with pytest.raises(KeyConflict) as conflict:
                await desk.submit(again)
            assert conflict.value.key == "k"
            assert conflict.value.task_id == first.task.task_id


async def test_a_conflict_is_seen_by_the_loser_of_a_race_within_one_gateway(
    rig: GatewayRig,
) -> None:
    answers: list[Submitted | MeshError] = []

    async def submit(desk: Desk, payload: Payload) -> None:
        try:
            answers.append(await desk.submit(submission(key="k", input=payload)))
        except MeshError as error:
            answers.append(error)

    async with rig.desks(1) as (desk,), anyio.create_task_group() as tasks:
        tasks.start_soon(submit, desk, HELLO)
        tasks.start_soon(submit, desk, OTHER)
    assert sorted(type(a).__name__ for a in answers) == ["KeyConflict", "Submitted"]


async def test_a_repeated_request_is_the_same_task(rig: GatewayRig) -> None:
    async with rig.desks(2) as (one, other):
        first = await one.submit(submission(request_id=REQUEST))
        second = await other.submit(submission(request_id=REQUEST))
    assert first.task.task_id == second.task.task_id == REQUEST
    assert second.duplicate


@pytest.mark.parametrize("fault", [Fault.STORED, Fault.LOST])
async def test_an_append_without_an_answer_gives_one_task(rig: GatewayRig, fault: Fault) -> None:
    rig.bus.faults.extend([fault, fault])
    async with rig.desks(1) as (desk,):
        submitted = await desk.submit(submission(key="k"))
    assert not submitted.duplicate
    assert kinds(await rig.bus.history(submitted.task.task_id)) == ["submitted"]


async def test_an_append_that_never_gets_an_answer_is_said_to_be_unresolved(
    rig: GatewayRig,
) -> None:
    rig.bus.faults.extend([Fault.LOST] * 200)
    async with rig.desks(1) as (desk,):
        with pytest.raises(Unresolved):
            await desk.submit(submission(request_id=REQUEST))
        rig.bus.faults.clear()
        assert (await desk.submit(submission(request_id=REQUEST))).task.task_id == REQUEST


async def test_a_bus_that_is_down_is_unavailable(rig: GatewayRig) -> None:
    rig.bus.faults.extend([Fault.DOWN] * 200)
    async with rig.desks(1) as (desk,):
        with pytest.raises(Unavailable):
            await desk.submit(submission())


async def test_an_agent_nobody_registered_is_refused_by_name(rig: GatewayRig) -> None:
    async with rig.desks(1) as (desk,):
        with pytest.raises(AgentUnknown) as refused:
            await desk.submit(submission("poet"))
    assert refused.value.agent == "poet"
    assert (await rig.bus.info())[0].last == 0


async def test_an_agent_that_is_down_takes_tasks_with_a_warning(rig: GatewayRig) -> None:
    async with rig.agent("critic"):
        pass
    async with rig.desks(1) as (desk,):
        submitted = await desk.submit(submission("critic"))
    assert submitted.task.state is State.SUBMITTED
    assert "`critic`" in submitted.warnings[0]


@pytest.mark.parametrize("name", ["gateway", "log", "ledger", "Planner", "a.b", ""])
async def test_a_name_that_no_agent_can_have_is_refused(rig: GatewayRig, name: str) -> None:
    async with rig.desks(1) as (desk,):
        with pytest.raises(NameInvalid):
            await desk.submit(submission(name))


async def test_a_large_payload_leaves_the_event_and_still_counts_for_the_key(
    rig: GatewayRig,
) -> None:
    large = Payload(content_type="application/octet-stream", data=b"x" * (INLINE_LIMIT + 1))
    other = Payload(content_type="application/octet-stream", data=b"y" * (INLINE_LIMIT + 1))
    async with rig.desks(1) as (desk,):
        first = await desk.submit(submission(key="k", input=large))
        rig.clock.advance(1)
        again = await desk.submit(submission(key="k", input=large))
        with pytest.raises(KeyConflict):
            await desk.submit(submission(key="k", input=other))
    stored = first.task.input
    assert stored is not None
    assert stored.blob is not None
    assert stored.data == b""
    assert await rig.blobs.open(stored.blob) == large.data
    assert again.duplicate


async def test_a_payload_over_the_limit_names_both_sizes(rig: GatewayRig) -> None:
    payload = Payload(data=bytes(PAYLOAD_LIMIT + 1))
    async with rig.desks(1) as (desk,):
        with pytest.raises(PayloadTooLarge) as refused:
            await desk.submit(submission(input=payload))
    assert (refused.value.size_bytes, refused.value.limit_bytes) == (
        PAYLOAD_LIMIT + 1,
        PAYLOAD_LIMIT,
    )


async def test_a_claim_check_from_outside_is_refused(rig: GatewayRig) -> None:
    blob = await rig.blobs.put(b"something")
    async with rig.desks(1) as (desk,):
        with pytest.raises(PayloadInvalid) as refused:
            await desk.submit(submission(input=Payload(blob=blob)))
    assert refused.value.field == "input.blob"


async def test_a_malformed_request_id_is_refused(rig: GatewayRig) -> None:
    async with rig.desks(1) as (desk,):
        with pytest.raises(Invalid, match="request_id"):
            await desk.submit(submission(request_id="mine"))


async def test_a_key_is_known_after_the_log_forgot_its_task(rig: GatewayRig) -> None:
    async with rig.desks(2) as (one, other):
        first = await one.submit(submission(key="k"))
        await rig.forget(first.task.task_id, ids_too=True)
        again = await other.submit(submission(key="k"))
        assert again.duplicate
        assert again.task == first.task
        with pytest.raises(KeyConflict):
            await other.submit(submission(key="k", input=OTHER))
        fresh = await other.submit(submission(key="new"))
        assert not fresh.duplicate
    assert await rig.bus.history(first.task.task_id) == []


async def test_an_unkeyed_submit_does_not_ask_the_ledger(rig: GatewayRig) -> None:
    async with rig.desks(1) as (desk,):
        first = await desk.submit(submission(key="k"))
        await rig.forget(first.task.task_id)
        rig.archive.asked.clear()
        await desk.submit(submission())
    assert rig.archive.asked == []


async def test_a_task_that_never_was_is_unknown(rig: GatewayRig) -> None:
    async with rig.desks(1) as (desk,):
        with pytest.raises(TaskUnknown):
            await desk.read("0" * 32)
        with pytest.raises(NameInvalid):
            await desk.read("*")


@pytest.mark.parametrize(
    "large",
    [
        {"labels": {"x": "y" * 20_000}},
        {"objective": "y" * 40_000},
        {"key": "k" * 600},
        {"correlation_id": "c" * 600},
    ],
    ids=lambda large: next(iter(large)),
)
async def test_what_goes_with_every_event_must_be_small(
    rig: GatewayRig, large: dict[str, Any]
) -> None:
    async with rig.desks(1) as (desk,):
        with pytest.raises(Invalid, match="at most"):
            await desk.submit(replace(submission(), **large))


async def test_a_budget_goes_with_the_task(rig: GatewayRig) -> None:
    async with rig.desks(1) as (desk,):
        budget = {"tokens": 2**63 - 1, "calls": 0}
        submitted = await desk.submit(replace(submission(), budget=budget))
        assert submitted.task.budget == budget
        for wrong, says in (
            ({"Tokens": 1}, "a-z, 0-9 and -"),
            ({"tokens": -1}, "`tokens` is -1"),
            ({f"c{n}": 1 for n in range(65)}, "at most 64"),
        ):
            with pytest.raises(Invalid, match=says):
                await desk.submit(replace(submission(), budget=wrong))
