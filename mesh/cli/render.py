"""What the mesh answers, for people to read."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from mesh.cli.output import whole
from mesh.wire.v1.api_pb2 import Agent, DeadLetterEntry, Event, StateAt, Task
from mesh.wire.v1.payload_pb2 import Failure

__all__ = [
    "agent_table",
    "agent_view",
    "dead_letter_table",
    "dead_letter_view",
    "details_of",
    "event_line",
    "fields",
    "instant_text",
    "json_text",
    "result_text",
    "seconds_between",
    "state_name",
    "state_text",
    "state_view",
    "task_table",
]

_COLOURS = {
    "COMPLETED": "green",
    "FAILED": "red",
    "REJECTED": "red",
    "CANCELED": "yellow",
    "INPUT_REQUIRED": "magenta",
    "WORKING": "cyan",
    "running": "green",
    "starting": "cyan",
    "backoff": "red",
    "stopping": "yellow",
    "stopped": "red",
}
_SAID = ("name", "agent", "prompt", "counter", "recorded", "asked", "reason")
"""Fields of events that say in a word what they are about."""
_ABOUT_CHARS = 80
_KIND_COLOURS = {"completed": "green", "failed": "red", "rejected": "red", "canceled": "yellow"}


def fields(rows: Iterable[tuple[str, Text | str]]) -> Text:
    """Names and values, one pair a line; pairs without a value are left out.

    Not a table, so that a long value can be copied without the edges of a terminal in it.
    """
    shown = [(name, value) for name, value in rows if value]
    width = max((len(name) for name, _ in shown), default=0) + 2
    lines: list[Text] = []
    for name, value in shown:
        first, *rest = (
            value.split("\n") if isinstance(value, Text) else map(Text, value.split("\n"))
        )
        lines.append(Text.assemble((name.ljust(width), "dim"), first))
        lines += [Text.assemble(" " * width, line) for line in rest]
    return Text("\n").join(lines)


def columns(*names: str) -> Table:
    """An empty table with light lines."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        # An id is there to be copied: never in two pieces.
        table.add_column(name, overflow="fold", no_wrap=name in ("TASK", "INSTANCE"))
    return table


def instant_text(at: Timestamp) -> str:
    """An instant in UTC, to the millisecond; "" for none."""
    if not at.seconds and not at.nanos:
        return ""
    when = at.ToDatetime(tzinfo=UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S.") + f"{when.microsecond // 1000:03}Z"


def short_instant(at: Timestamp) -> str:
    """An instant in UTC for a table: month and day, to the second."""
    return instant_text(at)[5:19]


def seconds_between(first: Timestamp, last: Timestamp) -> float:
    """Seconds from one instant to another."""
    begin: datetime = first.ToDatetime(tzinfo=UTC)
    return (last.ToDatetime(tzinfo=UTC) - begin).total_seconds()


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=_COLOURS.get(state, ""))


def state_name(state: "Task.State.ValueType") -> str:
    """How a state is spelled."""
    return Task.State.Name(state)


def result_text(result: Value) -> str:
    """A readable result: text as it is, everything else as JSON."""
    if result.HasField("string_value"):
        return result.string_value
    return json_text(result)


def details_of(error: Failure) -> list[tuple[str, str]]:
    """An error's figures, by name; those it does not have are left out."""
    return sorted((key, value) for key, value in error.details.items() if value)


def json_text(message: Message) -> str:
    """A protobuf value or struct as JSON text."""
    value = json.loads(MessageToJson(message), parse_float=whole)
    # A protobuf map has no order of its own: without one, each call would print another.
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)


def task_table(tasks: Sequence[Task]) -> Table:
    """Many tasks, a line each."""
    table = columns("TASK", "STATE", "OWNER", "HOPS", "SUBMITTED", "TOOK")
    for task in tasks:
        took = ""
        if task.HasField("closed_at"):
            took = f"{seconds_between(task.submitted_at, task.closed_at):.2f} s"
        table.add_row(
            task.task_id,
            state_text(state_name(task.state)),
            task.owner,
            str(task.hops),
            short_instant(task.submitted_at),
            took,
        )
    return table


def event_line(event: Event, *, with_task: bool = True) -> Text:
    """One event on one line."""
    at = (instant_text(event.occurred_at) or instant_text(event.stored_at))[5:]
    colour = _KIND_COLOURS.get(event.kind.rpartition(".")[2], "bold")
    line = Text.assemble(
        (f"{event.position:>7}  ", "dim"),
        (f"{at}  ", "dim"),
        (f"{event.kind:<22} ", colour),
        getattr(event, "from"),
        "" if event.to in ("", "log") else f" → {event.to}",
    )
    if about := _about(event):
        line.append(f"  {about}", "italic")
    if event.attempt > 1:
        line.append(f"  attempt {event.attempt}", "yellow")
    if with_task:
        line.append(f"  {event.task_id}", "dim")
    if event.fault:
        line.append(f"  {event.fault}", "red")
    return line


def _about(event: Event) -> str:
    """What an event is about, in a few words: a step's name, a question, an error."""
    body = event.body.fields
    words = [body[name].string_value for name in _SAID if name in body]
    if "failure" in body:
        words.append(body["failure"].struct_value.fields["message"].string_value)
    text = " ".join(": ".join(word for word in words if word).split())
    return text if len(text) <= _ABOUT_CHARS else f"{text[: _ABOUT_CHARS - 1]}…"


def state_view(state: StateAt) -> Text:
    """State at a point of a history."""
    packet = state.packet
    return fields(
        [
            ("state", state_text(state_name(state.state))),
            ("owner", state.owner),
            ("version", str(state.version)),
            ("position", str(state.position)),
            ("sha256", state.state_sha256),
            ("objective", packet.objective),
            ("next", packet.next_task),
            ("rules", "\n".join(packet.constraints)),
            ("decided", "\n".join(f"{d.id}: {d.summary} ({d.why})" for d in packet.decisions)),
            (
                "artifacts",
                "\n".join(f"{blob.uri} ({blob.size} bytes)" for blob in packet.artifacts),
            ),
        ]
    )


def agent_table(agents: Sequence[Agent]) -> Table:
    """Many agents, a line each."""
    table = columns("AGENT", "BEHAVIOUR", "UP", "WAITING", "HELD", "ACCEPTS")
    for agent in agents:
        up = len(agent.instances)
        accepts = ", ".join(each.schema or each.content_type for each in agent.card.inputs)
        table.add_row(
            agent.card.name,
            agent.card.behaviour_version,
            Text(str(up), style="green" if up else "red"),
            str(agent.pending),
            str(agent.held),
            accepts,
        )
    return table


def agent_view(agent: Agent) -> list[Table | Text]:
    """One agent in full: card, instances, and the JSON Schema of what it accepts."""
    card = agent.card
    instances = columns("PID", "HOST", "BEHAVIOUR", "SINCE", "INSTANCE")
    for each in agent.instances:
        started = short_instant(each.started_at)
        instances.add_row(str(each.pid), each.host, each.behaviour_version, started, each.instance)
    views: list[Table | Text] = [
        fields(
            [
                ("agent", card.name),
                ("", card.description),
                ("behaviour", card.behaviour_version),
                ("concurrency", f"{card.concurrency} per instance"),
                ("deliveries", f"{agent.pending} waiting, {agent.held} held"),
            ]
        ),
        instances if agent.instances else Text("no instance is up", style="red"),
    ]
    for input_ in card.inputs:
        schema = json_text(input_.json_schema)
        views.append(Text(f"accepts {input_.schema or 'any'} ({input_.content_type})"))
        views += [Text(schema)] if input_.HasField("json_schema") else []
    return views


def dead_letter_table(entries: Sequence[DeadLetterEntry]) -> Table:
    """Dead letters, a line each."""
    table = columns("TASK", "AGENT", "ATTEMPTS", "WHEN", "ERROR")
    for entry in entries:
        table.add_row(
            entry.task_id,
            entry.agent,
            str(entry.attempts),
            short_instant(entry.occurred_at),
            f"{entry.error.code}: {entry.error.message}",
        )
    return table


def dead_letter_view(entry: DeadLetterEntry) -> Text:
    """One dead letter in full."""
    redrive = f"mesh dlq redrive {entry.task_id}" if entry.redrivable else "not possible"
    return fields(
        [
            ("task", entry.task_id),
            ("agent", entry.agent),
            ("delivery", entry.delivery_id),
            ("attempts", str(entry.attempts)),
            ("position", str(entry.position)),
            ("when", instant_text(entry.occurred_at)),
            ("error", f"{entry.error.code}: {entry.error.message}"),
            ("", "\n".join(f"{key} = {value}" for key, value in details_of(entry.error))),
            ("redrive", redrive),
        ]
    )
