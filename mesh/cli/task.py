"""`mesh task`: submit, list, show, cancel; the rest stands in `following` and `waiting`."""

from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import FAILED, WAITING, run
from mesh.cli.following import follow_task, watch
from mesh.cli.option import FLAG, Data, Json, TaskId, budget, checked_task_id, instant, labels
from mesh.cli.output import busy, emit, say, show
from mesh.cli.waiting import answer, signal, unpark
from mesh.errors import AgentUnknown

if TYPE_CHECKING:
    from mesh.client.line import Line
    from mesh.wire.v1.api_pb2 import Task
    from mesh.wire.v1.gateway_pb2 import SubmitTaskRequest

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Submit tasks, look at them, answer what they ask, cancel them."
)

Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="When it must have ended; the agent that holds it then ends it as FAILED (a task"
        " that nobody holds, when it is taken up). 90s, 15m, or an instant.",
    ),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="COUNTER=LIMIT",
        help="Most that it, and all that it delegates, may spend of a counter; may be repeated.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Kept and shown with it; may be repeated."),
]
Priority = Annotated[
    int, typer.Option(help="Kept with it, for its agents; deliveries keep their order.")
]


class StateName(StrEnum):
    """States that `--state` takes."""

    SUBMITTED = "SUBMITTED"
    WORKING = "WORKING"
    INPUT_REQUIRED = "INPUT_REQUIRED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    CANCELED = "CANCELED"


@app.command()
def submit(  # noqa: PLR0913 - one parameter an option
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Who gets it.")],
    *,
    input_: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON|@file|-", help="The input, as JSON; - is stdin."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="The input, as plain text.")] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", metavar=FLAG, help="Print events, and live what agents emit."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", metavar=FLAG, help="Wait for the outcome.")
    ] = False,
    id_: Annotated[
        str, typer.Option("--id", help="Id of the new task: 32 lower-case hex digits.")
    ] = "",
    idempotency_key: Annotated[
        str, typer.Option(help="The same key gives the same task, however often it comes.")
    ] = "",
    deadline: Deadline = None,
    objective: Annotated[str, typer.Option(help="What it is for, in the relay packet.")] = "",
    schema: Annotated[str, typer.Option(help="Name and version of the input's type.")] = "",
    label: Labels = None,
    budgets: Budget = None,
    priority: Priority = 0,
    max_hops: Annotated[int, typer.Option(min=0, help="0 for the default.")] = 0,
    data: Data = None,
    json: Json = False,
) -> None:
    """Submit a task to an agent; exit code 1 if its outcome is awaited and bad."""
    from mesh.cli.payload import given_payload
    from mesh.clock import SystemIds
    from mesh.wire.v1.gateway_pb2 import SubmitTaskRequest

    content_type, content = given_payload(input_, text)
    request = SubmitTaskRequest(
        agent=agent,
        idempotency_key=idempotency_key,
        objective=objective,
        labels=labels(label or []),
        budget=budget(budgets or []),
        priority=priority,
        max_hops=max_hops,
        # Fixed here, so that a repeated request is the same task.
        request_id=checked_task_id(id_, "--id") if id_ else SystemIds().fresh(),
    )
    request.input.content_type, request.input.data = content_type, content
    request.input.schema = schema
    if deadline is not None:
        request.deadline.FromDatetime(instant(deadline, "--deadline", direction=1))
    task = run(lambda: _submit(data, request, follow=follow, wait=wait, json=json))
    if (follow or wait) and not _succeeded(task):
        raise typer.Exit(FAILED)


@app.command("list")
def list_(
    *,
    state: Annotated[list[StateName] | None, typer.Option(help="Only these states.")] = None,
    agent: Annotated[str, typer.Option(help="Only tasks that this agent has.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    page: Annotated[str, typer.Option(help="nextPageToken of the page before.")] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """List tasks, newest first."""
    from mesh.cli.reach import gateway
    from mesh.wire.v1.api_pb2 import Task
    from mesh.wire.v1.gateway_pb2 import ListTasksRequest, ListTasksResponse

    states = [Task.State.Value(each.value) for each in state or []]
    request = ListTasksRequest(states=states, agent=agent, page_size=limit, page_token=page)

    async def ask() -> ListTasksResponse:
        async with gateway(data) as line:
            return await line.call(line.stub.ListTasks, request)

    reply = run(ask, waiting=WAITING)
    if json:
        emit(reply)
        return
    from mesh.cli.render import task_table

    if reply.tasks:
        show(task_table(reply.tasks))
    else:
        say("no tasks")
    if reply.next_page_token:
        say(f"more: --page {reply.next_page_token}")


@app.command("show")
def show_(task: TaskId, *, data: Data = None, json: Json = False) -> None:
    """Show one task: where it is, where it was, what came of it."""
    from mesh.cli.child import children_of
    from mesh.cli.reach import gateway
    from mesh.wire.v1.api_pb2 import Task
    from mesh.wire.v1.gateway_pb2 import GetTaskRequest

    async def ask() -> tuple[Task, str]:
        async with gateway(data) as line:
            found = await line.call(line.stub.GetTask, GetTaskRequest(task_id=task))
            return found, "" if json else await children_of(line, found)

    found, children = run(ask, waiting=WAITING)
    _print(found, json=json, children=children)


@app.command()
def cancel(
    task: TaskId,
    *,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Ask a task's owner to wind up."""
    from mesh.cli.reach import gateway
    from mesh.wire.v1.api_pb2 import Task
    from mesh.wire.v1.gateway_pb2 import CancelTaskRequest

    async def ask() -> Task:
        async with gateway(data) as line:
            return await line.call(
                line.stub.CancelTask, CancelTaskRequest(task_id=task, reason=reason)
            )

    _print(run(ask, waiting=WAITING), json=json)


app.command()(watch)
app.command()(answer)
app.command()(signal)
app.command()(unpark)


async def _submit(
    data: Path | None, request: "SubmitTaskRequest", *, follow: bool, wait: bool, json: bool
) -> "Task":
    from mesh.cli.reach import LONG_PATIENCE_S, PATIENCE_S, gateway

    patience_s = LONG_PATIENCE_S if follow or wait else PATIENCE_S
    async with gateway(data, patience_s=patience_s) as line:
        try:
            reply = await line.call(line.stub.SubmitTask, request)
        except AgentUnknown as e:
            await _suggest(line, request.agent)
            raise e from None
        for warning in reply.warnings:
            say(f"mesh: warning: {warning}")
        if reply.duplicate:
            say("mesh: this task was submitted before; nothing is new")
        if follow:
            return await follow_task(line, reply.task.task_id, json=json)
        task = await _wait(line, reply.task) if wait else reply.task
    if json or wait:
        _print(task, json=json)
    else:
        show(task.task_id)
    return task


async def _suggest(line: "Line", agent: str) -> None:
    from difflib import get_close_matches

    from mesh.wire.v1.gateway_pb2 import ListAgentsRequest

    reply = await line.call(line.stub.ListAgents, ListAgentsRequest())
    known = [each.card.name for each in reply.agents]
    near = get_close_matches(agent, known, n=3)
    if near:
        say(f"mesh: did you mean {' or '.join(f'`{name}`' for name in near)}?")


async def _wait(line: "Line", task: "Task") -> "Task":
    from mesh.cli.render import state_name
    from mesh.client.handle import TaskHandle

    with busy(f"task {task.task_id} …") as progress:
        async with aclosing(TaskHandle(line, task.task_id).watch()) as updates:
            async for update in updates:
                task = update.task
                progress(f"task {task.task_id}: {state_name(task.state)}, {task.owner}")
    return task


def _print(task: "Task", *, json: bool, children: str = "") -> None:
    if json:
        emit(task)
        return
    from mesh.cli.task_view import task_view

    show(task_view(task, children=children))


def _succeeded(task: "Task") -> bool:
    from mesh.wire.v1.api_pb2 import Task

    return task.state == Task.State.COMPLETED
