"""Random programs of a handler: what they ask for, as data, and the handlers that run them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st
from pydantic import BaseModel

from mesh import Agent, Context, Fail, Fatal, Handoff, Reject, Reply, Retry, Retryable
from mesh.agent.outcome import Outcome
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.core.envelope import Record
from mesh.errors import MeshError

__all__ = ["AGENTS", "NEVER_S", "PROGRAMS", "Node", "Program", "Stage", "agent"]

AGENTS = ("p", "q", "c", "g")
"""The first agent, whom it hands off to, their children's agent, and those of that one."""
_BELOW = {"p": "c", "q": "c", "c": "g"}
NEVER_S = 1e7
"""Nothing waits so long in earnest."""
_TRIES = Retry(attempts=3, backoff=Backoff(first_s=1))


@dataclass
class Note:
    text: str
    at: timedelta


class Model(BaseModel):
    items: list[int]


VALUES: dict[str, Any] = {
    "int": 7,
    "text": "grün",
    "bytes": b"\x00\xff",
    "float": 0.1,
    "none": None,
    "json": {"a": [1, None, True]},
    "note": Note("x", timedelta(seconds=1.5)),
    "model": Model(items=[1, 2]),
    "message": Duration(seconds=3),
    "large": "x" * (300 * 1024),
}
KINDS: dict[str, Any] = {"json": dict[str, Any], "none": None} | {
    name: type(value) for name, value in VALUES.items() if name not in ("json", "none")
}


@dataclass(frozen=True)
class Node:
    """One thing that a handler does.

    `what` is one of: step, undo, delegate, sleep, ask, signal, now, uuid, random, spend, decide,
    flaky, gather, collect, race, branch. A step or an undo fails `fails` times, or always if that
    is 3; `parts` are of a gather or a branch; a race is between its one part and what never comes.
    """

    what: str
    value: str = "int"
    plain: bool = False
    fails: int = 0
    caught: bool = True
    amount: int = 1
    parts: tuple["Node", ...] = ()
    child: "Program | None" = None


@dataclass(frozen=True)
class Program:
    """What one handler does; `end` is reply, fail, reject, fatal or hand off (to `then`)."""

    nodes: tuple[Node, ...]
    end: str = "reply"
    then: "Program | None" = None


def _leaves() -> st.SearchStrategy[Node]:
    step = st.builds(
        Node,
        what=st.just("step"),
        value=st.sampled_from([*VALUES]),
        plain=st.booleans(),
        fails=st.sampled_from([0, 0, 0, 1, 2, 3]),
    )
    undo = st.builds(
        Node, what=st.just("undo"), plain=st.booleans(), fails=st.sampled_from([0, 0, 1, 3])
    )
    other = st.builds(
        Node,
        what=st.sampled_from(["sleep", "ask", "signal", "now", "uuid", "random"]),
        amount=st.integers(0, 3),
        plain=st.booleans(),
    )
    return step | undo | other


def _nodes(child: st.SearchStrategy[Program] | None) -> st.SearchStrategy[Node]:
    leaf = _leaves()
    if child is not None:
        leaf |= st.builds(Node, what=st.just("delegate"), child=child)
    few = st.lists(leaf, max_size=3).map(tuple)
    branch = st.builds(Node, what=st.just("branch"), parts=few)
    part = leaf | branch
    inner = st.builds(
        Node,
        what=st.sampled_from(["gather", "collect"]),
        parts=st.lists(part, max_size=3).map(tuple),
    )
    parts = st.lists(part | inner, max_size=4).map(tuple)
    gather = st.builds(Node, what=st.sampled_from(["gather", "collect"]), parts=parts)
    race = st.builds(
        Node,
        what=st.just("race"),
        parts=st.tuples(part),
        amount=st.integers(0, 5),
    )
    alone = st.builds(
        Node, what=st.sampled_from(["spend", "decide", "flaky"]), amount=st.integers(0, 60)
    )
    fatal = st.builds(Node, what=st.just("step"), fails=st.just(3), caught=st.just(False))
    return st.one_of(leaf, leaf, gather, gather, race, alone, leaf if child is None else fatal)


def _programs(child: st.SearchStrategy[Program] | None, ends: list[str]) -> Any:
    return st.builds(
        Program,
        nodes=st.lists(_nodes(child), min_size=1, max_size=4).map(tuple),
        end=st.sampled_from(ends),
    )


_ENDS = ["reply", "reply", "reply", "fail", "reject", "fatal"]
_GRANDCHILD = _programs(None, _ENDS)
_CHILD = _programs(_GRANDCHILD, _ENDS)
_LAST = _programs(_CHILD, _ENDS)
PROGRAMS: st.SearchStrategy[Program] = st.builds(
    Program,
    nodes=st.lists(_nodes(_CHILD), min_size=1, max_size=5).map(tuple),
    end=st.sampled_from([*_ENDS, "hand off"]),
    then=_LAST,
)
"""Programs of the first agent."""


@dataclass
class Stage:
    """What the functions of programs did, and what of it was wrong.

    `recorded` gives what the log holds of a task.
    """

    recorded: Callable[[str], list[Record]]
    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    calls: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    seen: dict[tuple[str, str], object] = field(default_factory=dict[tuple[str, str], object])
    wrong: list[str] = field(default_factory=list[str])

    def fn(self, task_id: str, path: str, node: Node) -> Callable[..., Any]:
        """The function of a step or an undo; it says so if it is called once too often."""
        undo = node.what == "undo"

        def act(idempotency_key: str) -> Any:
            self.calls[task_id, path] += 1
            self.same(task_id, f"key {path}", idempotency_key)
            for record in self.recorded(task_id):
                event = record.envelope.event if record.envelope else None
                if (
                    isinstance(event, e.StepRecorded)
                    and event.name == path
                    and bool(event.undoes) == undo
                ):
                    self.wrong.append(f"{path} of {task_id} ran again after it was recorded")
            if self.calls[task_id, path] <= node.fails or node.fails == 3:
                raise ValueError("on purpose")
            return VALUES[node.value]

        async def act_async(idempotency_key: str) -> Any:
            return act(idempotency_key)

        fn = act if node.plain else act_async
        fn.__qualname__ = path
        fn.__annotations__["return"] = KINDS[node.value]
        return fn

    def same(self, task_id: str, path: str, value: object) -> None:
        """What is the same in every run."""
        known = self.seen.setdefault((task_id, path), value)
        if known != value:
            self.wrong.append(f"{path} of {task_id} was {known!r}, then {value!r}")


class _Run:
    """One run of one program."""

    def __init__(self, stage: Stage, ctx: Context, agent: str, name: str) -> None:
        self.stage, self.ctx, self.agent, self.name = stage, ctx, agent, name
        self.times: list[tuple[str, object]] = []

    async def sequence(self, nodes: tuple[Node, ...], path: str) -> list[Any]:
        return [await self.do(node, f"{path}.{n}") for n, node in enumerate(nodes)]

    async def do(self, node: Node, path: str) -> Any:
        ctx, id = self.ctx, self.ctx.task_id
        match node.what:
            case "now":
                now = ctx.now()
                if "/" not in path:  # a branch may go on before its time is recorded
                    self.times.append((path, now))
                return None
            case "uuid" | "random":
                self.stage.same(id, path, ctx.uuid() if node.what == "uuid" else ctx.random())
                return None
            case "spend":
                ctx.spend("tokens", node.amount)
                return node.amount
            case "decide":
                ctx.decide(path, "decided")
                return None
            case "undo":
                ctx.compensate(self.stage.fn(id, path, node), retry=_TRIES)
                return None
            case "flaky":
                return self.flaky(node, path)
            case _:
                return await self.wait(node, path)

    def flaky(self, node: Node, path: str) -> None:
        self.stage.calls[self.ctx.task_id, path] += 1
        if self.stage.calls[self.ctx.task_id, path] == 1:
            if node.amount % 2:
                raise ValueError("on purpose")
            raise Retryable("on purpose", after=node.amount)

    async def wait(self, node: Node, path: str) -> Any:
        try:
            found = await self.part(node, path)
        except MeshError as error:
            if not node.caught:
                raise
            # Which of several comes first is a matter of chance.
            found = "!" if node.what in ("gather", "race") else f"!{error.code}"
        if node.what == "step" and "/" not in path:  # what was asked before it is recorded by now
            for where, time in self.times:
                self.stage.same(self.ctx.task_id, where, time)
        return self.token(node, path, found)

    def token(self, node: Node, path: str, found: Any) -> Any:
        if node.what == "step" and not str(found).startswith("!"):
            if found != VALUES[node.value] or type(found) is not type(VALUES[node.value]):
                self.stage.wrong.append(f"{path} gave {found!r:.80}, not a {node.value}")
            return f"={node.value}"
        if node.what == "collect" and found != "!":
            return [
                "!"
                if isinstance(found[n], MeshError)
                else self.token(part, f"{path}/{n}", found[n])
                for n, part in enumerate(node.parts)
            ]
        if node.what in ("gather", "collect", "race", "branch"):
            return "gathered" if found != "!" else found
        return found

    def part(self, node: Node, path: str) -> Any:
        """What can be awaited, or gathered."""
        ctx, id = self.ctx, self.ctx.task_id
        match node.what:
            case "step":
                return ctx.step(path, self.stage.fn(id, path, node), retry=_TRIES)
            case "delegate":
                assert node.child is not None
                name = f"{self.name}{path}"
                self.stage.programs[name] = node.child
                return ctx.delegate(_BELOW[self.agent], name)
            case "sleep":
                return ctx.sleep(node.amount * 10)
            case "ask" if node.plain:
                return ctx.ask("answer me", str, expires=NEVER_S)
            case "ask":
                default = {"default": "none"} if node.amount else {}
                return ctx.ask("expire", str, expires=10, **default)
            case "signal":
                return ctx.signal("go", int)
            case "gather" | "collect":
                parts = [self.part(p, f"{path}/{n}") for n, p in enumerate(node.parts)]
                return ctx.gather(*parts, failures="raise" if node.what == "gather" else "collect")
            case "race":
                return self.race(node, path)
            case "branch":
                return self.sequence(node.parts, path)
            case _:  # what comes at once
                return self.sequence((node,), path)

    def race(self, node: Node, path: str) -> Any:
        """The one part against what never comes; sometimes that is a child, to be cancelled."""
        ctx = self.ctx
        part = self.part(node.parts[0], f"{path}/0")
        if node.amount == 0 and self.agent in _BELOW:
            never = Program((Node("undo"), Node("step"), Node("sleep", amount=int(NEVER_S))))
            name = f"{self.name}{path}~"
            self.stage.programs[name] = never
            return ctx.race(ctx.delegate(_BELOW[self.agent], name), part)
        lost = ctx.signal("never") if node.amount % 2 else ctx.sleep(NEVER_S)
        return ctx.race(part, lost) if node.amount < 3 else ctx.race(lost, part)


def agent(stage: Stage, name: str) -> Agent:
    """An agent that runs programs; its input is the name of one."""
    declared = Agent(name)

    @declared.on(str)
    async def handle(ctx: Context, program_name: str) -> Outcome:
        program = stage.programs[program_name]
        run = _Run(stage, ctx, name, program_name)
        found = await run.sequence(program.nodes, name)
        match program.end:
            case "fail":
                return Fail("on purpose")
            case "reject":
                return Reject("on purpose")
            case "fatal":
                raise Fatal("on purpose")
            case "hand off":
                assert program.then is not None
                stage.programs[f"{program_name}>"] = program.then
                return Handoff("q", f"{program_name}>")
            case _:
                return Reply(found)

    return declared
