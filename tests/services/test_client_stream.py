"""What a task emits, from its handler to a client, over real gRPC."""

import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from mesh import Agent, Context, Reply
from mesh.agent.outcome import Outcome
from mesh.agent.ports import Limits
from mesh.bus.inproc import InprocBus
from mesh.bus.port import Hint
from mesh.client import OutputReader, TaskHandle, open_mesh
from mesh.errors import TaskUnknown
from tests.make import TENANT
from tests.services.door import Door
from tests.services.listening import Cues, Listener, recorded, speaker, speaking

pytestmark = pytest.mark.anyio


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def cues() -> Cues:
    return Cues()


async def heard_to_the_end(door: Door, task: TaskHandle, listener: Listener, text: str) -> None:
    with anyio.fail_after(10):
        await listener.ended.wait()
    assert listener.text == text
    assert await recorded(door.rig.bus, task.id) == text


async def test_what_is_emitted_arrives_at_once_and_once_and_is_recorded(
    door: Door, cues: Cues
) -> None:
    listener = Listener()
    async with door.connected() as mesh, speaking(door, speaker(cues)):
        task = await mesh.submit("speaker", "go")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.follow, task)
            text = ""
            for n in range(40):
                text += f"line {n}\n"
                cues.say(f"line {n}\n")
                await listener.heard(text)  # before anything records it
            assert await recorded(door.rig.bus, task.id) == ""
            cues.say("/a step, ", "then ", "a long one: ", "ä" * 50_000, "/the end", "")
            text += "a step, then a long one: " + "ä" * 50_000 + "the end"
            await heard_to_the_end(door, task, listener, text)
    assert listener.taken_back == 0


async def test_a_late_listener_gets_what_is_recorded_and_what_is_not(
    door: Door, cues: Cues
) -> None:
    first, late = Listener(), Listener()
    async with door.connected() as mesh, speaking(door, speaker(cues)):
        task = await mesh.submit("speaker", "go")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.follow, task)
            cues.say("a", "/b", "c", "d")
            await first.heard("abcd")
            assert await recorded(door.rig.bus, task.id) == "ab"
            tasks.start_soon(late.follow, task)
            await late.heard("abcd")
            cues.say("e", "")
            for listener in (first, late):
                await heard_to_the_end(door, task, listener, "abcde")
    after = Listener()
    async with door.open_gateway() as (address, _), open_mesh(address) as mesh:
        await after.follow(mesh.task(task.id))
    assert after.text == "abcde"
    assert first.taken_back == late.taken_back == after.taken_back == 0


async def test_a_late_listener_gets_what_was_said_word_by_word(door: Door, cues: Cues) -> None:
    """More words than there is room for hints."""
    words = [f"{n} " for n in range(5_000)]
    first, late = Listener(), Listener()
    async with door.connected() as mesh, speaking(door, speaker(cues)):
        task = await mesh.submit("speaker", "go")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.follow, task)
            cues.say(*words)
            await first.heard("".join(words))
            assert await recorded(door.rig.bus, task.id) == ""
            tasks.start_soon(late.follow, task)
            await late.heard("".join(words))
            assert await recorded(door.rig.bus, task.id) == ""
            cues.say("")
            for listener in (first, late):
                await heard_to_the_end(door, task, listener, "".join(words))


async def test_a_stream_goes_on_through_restarts_of_the_gateway(door: Door, cues: Cues) -> None:
    listener = Listener()
    async with anyio.create_task_group() as tasks:
        gateway = await door.start_gateway(tasks)
        async with speaking(door, speaker(cues)), open_mesh(gateway.address) as mesh:
            task = await mesh.submit("speaker", "go")
            tasks.start_soon(listener.follow, task)
            text = ""
            for n in range(3):
                cues.say(f"{n}: seen ", "and seen, ")
                text += f"{n}: seen and seen, "
                await listener.heard(text)
                await gateway.stop()
                cues.say("missed ", "/and recorded, ", "missed, ")
                text += "missed and recorded, missed, "
                gateway = await door.start_gateway(tasks, gateway.address)
                await listener.heard(text)
            cues.say("")
            await heard_to_the_end(door, task, listener, text)
        await gateway.stop()
    assert listener.taken_back == 0


async def test_a_watch_that_is_dropped_goes_on_after_the_last_chunk(door: Door, cues: Cues) -> None:
    """What `stream` does, done by hand: one reader over two watches."""
    reader, text, position = OutputReader(), "", 0
    async with door.connected() as mesh, speaking(door, speaker(cues)):
        task = await mesh.submit("speaker", "go")
        cues.say("a", "b", "/c", "d", "e")
        numbers: list[int] = []
        for last in ("e", ""):
            async with aclosing(task.watch(after=position, live=True)) as updates:
                async for update in updates:
                    position = update.event.position or position
                    numbers += [update.live.number] if update.HasField("live") else []
                    for piece in reader.take(update):
                        text = piece.added_to(text)
                    if last and text.endswith(last):
                        break
            cues.say("f", "")
    assert text == await recorded(door.rig.bus, task.id) == "abcdef"
    assert reader.last[1] == 6
    assert numbers == sorted(numbers)


async def test_a_run_that_crashes_takes_back_what_it_did_not_record(door: Door, cues: Cues) -> None:
    listener = Listener()
    async with door.connected() as mesh, anyio.create_task_group() as tasks:
        async with speaking(door, speaker(cues)):
            task = await mesh.submit("speaker", "go")
            tasks.start_soon(listener.follow, task)
            cues.say("kept, ", "/kept too, ", "lost, ", "and lost.")
            await listener.heard("kept, kept too, lost, and lost.")
        async with speaking(door, speaker(cues)):
            # The handler says again what it said; what is recorded is not shown twice.
            cues.say("kept, ", "/kept too, ", "another, ")
            await listener.heard("kept, kept too, another, ")
            cues.say("")
            await heard_to_the_end(door, task, listener, "kept, kept too, another, ")
    assert [p.takes_back for p in listener.pieces if p.takes_back] == [len("lost, and lost.")]


async def test_what_a_cancelled_task_did_not_record_is_taken_back(door: Door, cues: Cues) -> None:
    listener = Listener()
    async with (
        door.connected() as mesh,
        speaking(door, speaker(cues)),
        anyio.create_task_group() as tasks,
    ):
        task = await mesh.submit("speaker", "go")
        tasks.start_soon(listener.follow, task)
        cues.say("/kept, ", "lost")
        await listener.heard("kept, lost")
        await task.cancel()
        await heard_to_the_end(door, task, listener, "kept, ")
    assert listener.taken_back == len("lost")


class LossyBus(InprocBus):
    """Loses every third hint, and the first ones; nobody is told."""

    hinted = 0

    async def hint(self, topic: str, data: bytes = b"") -> None:
        self.hinted += 1
        if self.hinted > 3 and self.hinted % 3:
            await super().hint(topic, data)


async def test_what_gets_lost_on_the_way_comes_with_the_record(door: Door, cues: Cues) -> None:
    door.rig.bus = LossyBus(tenant=TENANT, clock=door.rig.clock)
    listener = Listener()
    async with (
        door.rig.agent("planner"),
        door.open_gateway() as (address, _),
        open_mesh(address) as mesh,
        speaking(door, speaker(cues)),
        anyio.create_task_group() as tasks,
    ):
        task = await mesh.submit("speaker", "go")
        tasks.start_soon(listener.follow, task)
        text = "".join(f"{n} " for n in range(50))
        cues.say(*(f"{n} " for n in range(50)), "")
        await heard_to_the_end(door, task, listener, text)
    assert listener.taken_back == 0


async def test_an_unknown_task_has_no_output(door: Door) -> None:
    async with door.connected() as mesh:
        with pytest.raises(TaskUnknown):
            await anext(mesh.task("0" * 32).stream())


class HeardBus(InprocBus):
    """Knows who listens to what a task emits."""

    def __init__(self) -> None:
        super().__init__(tenant=TENANT)
        self.listening, self.begun, self.left = 0, 0, anyio.Event()

    @asynccontextmanager
    async def hints(self, topic: str) -> AsyncGenerator[AsyncIterator[Hint]]:
        mine = topic.startswith("emit.")
        self.listening, self.begun = self.listening + mine, self.begun + mine
        try:
            async with super().hints(topic) as hints:
                yield hints
        finally:
            self.listening -= mine
            if not self.listening:
                self.left.set()


async def test_many_listeners_share_one_ear_and_leave_nothing_behind(
    door: Door, cues: Cues
) -> None:
    door.rig.bus = bus = HeardBus()
    listeners = [Listener() for _ in range(10)]
    async with (
        door.rig.agent("planner"),
        door.open_gateway() as (address, _),
        open_mesh(address) as mesh,
        speaking(door, speaker(cues)),
        anyio.create_task_group() as tasks,
    ):
        task = await mesh.submit("speaker", "go")
        for listener in listeners:
            tasks.start_soon(listener.follow, task)
        cues.say("a", "b")
        for listener in listeners:
            await listener.heard("ab")
        async with aclosing(task.stream()) as pieces:
            assert (await anext(pieces)).text == "a"
        cues.say("/c", "d", "")
        for listener in listeners:
            await heard_to_the_end(door, task, listener, "abcd")
            assert listener.taken_back == 0
        with anyio.fail_after(10):
            await bus.left.wait()
        assert (bus.begun, bus.listening) == (1, 0)


async def test_a_step_in_a_thread_and_an_asynchronous_one_speak_too(door: Door) -> None:
    agent = Agent("speaker")
    threads: set[int] = set()

    @agent.on(str)
    async def speak(ctx: Context, text: str) -> Outcome:
        def blocking() -> None:
            threads.add(threading.get_ident())
            for n in range(100):
                ctx.emit(f"{n},")

        async def waiting() -> None:
            ctx.emit("async")

        await ctx.step("blocking", blocking)
        await ctx.step("waiting", waiting)
        return Reply("done")

    listener = Listener()
    async with door.connected() as mesh, speaking(door, agent, Limits(always_replay=True)):
        task = await mesh.submit("speaker", "go")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.follow, task)
            text = "".join(f"{n}," for n in range(100)) + "async"
            await heard_to_the_end(door, task, listener, text)
    assert threads
    assert threading.get_ident() not in threads
    assert listener.taken_back == 0
