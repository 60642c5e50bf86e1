"""`mesh demo`: a whole mesh for one real job, then the proof that its record is true."""

import json
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import FAILED, run
from mesh.cli.option import OwnData
from mesh.cli.output import busy, say, show
from mesh.errors import Invalid

if TYPE_CHECKING:
    from mesh.cli.demo_story import Story
    from mesh.cli.proof import Proof
    from mesh.client.line import Line
    from mesh.supervisor import MeshRun, Plan
    from mesh.wire.v1.api_pb2 import Task

__all__ = ["demo"]

_QUESTION = "How do I read a file line by line, and how do I write JSON?"
_AGENTS = ("planner", "reader", "writer", "critic")
_FOLDER = Path(".mesh-demo")
_INTERRUPTED = 130


def demo(
    *,
    question: Annotated[str, typer.Option(help="What the brief should answer.")] = _QUESTION,
    docs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Documents; default Python's standard library."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where brief.md goes; default: the data folder."),
    ] = None,
    data: OwnData = None,
) -> None:
    """Run one real job on a mesh of its own, and prove what happened."""
    if docs is not None and not docs.is_dir():
        wrong = f"{docs} is not a folder" if docs.exists() else f"there is no folder {docs}"
        raise Invalid(f"--docs: {wrong}")
    folder = data or _FOLDER
    brief = _cleared((out or folder) / "brief.md")
    request = {"question": question, **({"docs": str(docs.resolve())} if docs else {})}
    ended = run(lambda: _demo(_planned(folder), request))
    if ended is None:
        raise typer.Exit(_INTERRUPTED)
    task, proof = ended
    if proof is None:
        say(f"mesh: the task is {_state(task)}: {task.error.code}: {task.error.message}")
        raise typer.Exit(FAILED)
    brief.parent.mkdir(parents=True, exist_ok=True)
    brief.write_text(_markdown(task), encoding="utf-8")
    show(f"\nthe brief is in {brief}; everything else in {folder}, nothing runs any more")
    if not proof.holds:
        say("mesh: the record does not agree with itself")
        raise typer.Exit(FAILED)


def _cleared(brief: Path) -> Path:
    """Where the brief goes; one of an earlier run would look like the answer of a failed one."""
    try:
        brief.unlink(missing_ok=True)
    except OSError as e:
        raise Invalid(
            f"cannot put the brief into {brief.parent}: {e.strerror}; --out, or --data for the"
            " whole data folder, names another"
        ) from e
    return brief


def _markdown(task: "Task") -> str:
    return str(json.loads(task.result_payload.data)["markdown"])


def _beginning(markdown: str) -> str:
    """The title and the first section: what a brief says in short."""
    return "\n## ".join(markdown.split("\n## ")[:2]).strip()


def _planned(folder: Path) -> "Plan":
    from mesh.bootstrap import environment
    from mesh.config import AgentEntry, Manifest, MeshEntry
    from mesh.supervisor import planned

    agents = {name: AgentEntry(agent=f"services.{name}.agent:{name}") for name in _AGENTS}
    return planned(
        Manifest(mesh=MeshEntry(nats_port=0, gateway_port=0), agents=agents),
        data=folder,
        folder=folder,
        manifest_path="",
        environment=environment(),
    )


async def _demo(plan: "Plan", request: dict[str, str]) -> "tuple[Task, Proof | None] | None":
    """The task as it ended and the proof, which a failed one lacks; None if interrupted."""
    from contextlib import AsyncExitStack

    from rich.text import Text

    from mesh.cli.reach import line_to
    from mesh.supervisor import supervised, until_signalled

    ending: list[bool] = []
    async with until_signalled(), AsyncExitStack() as stack:
        with busy("starting …") as progress:

            def changed(mesh: "MeshRun") -> None:
                states = {each.label: each.state for each in mesh.services}
                waiting = [name for name, state in states.items() if state != "running"]
                progress(f"starting {', '.join(waiting)} …")
                if "stopping" in states.values() and not ending:
                    ending.append(True)
                    say("stopping …")

            supervisor = await stack.enter_async_context(supervised(plan, changed))
        mesh = supervisor.run
        say(f"a mesh of {len(mesh.services)} processes is up; its log is at {mesh.nats_url}")
        line = await stack.enter_async_context(line_to(plan.gateway))
        task, story = await _worked(line, request)
        if not task.HasField("result_payload"):
            return task, None
        show(Text(_beginning(_markdown(task))), "")
        return task, await _proven(line, mesh, story)
    return None


async def _worked(line: "Line", request: dict[str, str]) -> "tuple[Task, Story]":
    """Submit the job and say what happens as it happens, to it and to its children."""
    from mesh.cli.demo_story import Story
    from mesh.wire.v1.gateway_pb2 import GetTaskRequest, SubmitTaskRequest, TailEventsRequest

    submit = SubmitTaskRequest(
        agent="planner", request_id=line.ids.fresh(), objective=request["question"]
    )
    submit.input.content_type, submit.input.data = "application/json", json.dumps(request).encode()
    task = (await line.call(line.stub.SubmitTask, submit)).task
    say(f"task {task.task_id}: {request['question']}")
    story = Story(task.task_id)
    rest = TailEventsRequest(shard=task.shard, from_position=task.position)
    with busy("planner works …") as progress:
        async with aclosing(line.follow(line.stub.TailEvents, lambda: rest)) as events:
            async for event in events:
                rest.from_position = event.position + 1
                if event.root_task_id != task.task_id:
                    continue
                story.add(event)
                progress(story.working())
                say(story.line(event))
                if story.ended:
                    break
    return await line.call(line.stub.GetTask, GetTaskRequest(task_id=task.task_id)), story


async def _proven(line: "Line", mesh: "MeshRun", story: "Story") -> "Proof":
    from rich.text import Text

    from mesh.cli.history import trace_from
    from mesh.cli.proof import proven
    from mesh.replay.trace_text import trace_text

    with busy("checking the record …"):
        proof = await proven(line, mesh, story.tasks)
        trace = await trace_from(line, story.root)
    show(story.timeline(mesh), "", Text(trace_text(trace)), "", proof.shown())
    return proof


def _state(task: "Task") -> str:
    from mesh.wire.v1.api_pb2 import Task

    return Task.State.Name(task.state)
