"""One task in full, for people: where it is, what it waits for, what came of it."""

import json

from rich.text import Text

from mesh.cli.render import (
    details_of,
    fields,
    instant_text,
    json_text,
    result_text,
    seconds_between,
    state_name,
    state_text,
)
from mesh.wire.v1.api_pb2 import Task

__all__ = ["task_view"]

_LINES = 20
"""Most waits and children that are shown one by one."""


def task_view(task: Task, *, children: str = "") -> Text:
    """One task in full; with `children` instead of those that it knows to be open."""
    path = " → ".join([h.to for h in task.handoffs])
    first = getattr(task.handoffs[0], "from") if task.handoffs else task.owner
    route = f"{first} → {path}" if path else first
    took = ""
    if task.HasField("closed_at"):
        took = f" (took {seconds_between(task.submitted_at, task.closed_at):.2f} s)"
    flags = [
        text
        for text, is_set in (
            ("cancel requested", task.cancel_requested),
            ("dead-lettered", task.dead_lettered),
        )
        if is_set
    ]
    error = task.error
    details = ", ".join(f"{key}={value}" for key, value in details_of(error))
    return fields(
        [
            ("task", task.task_id),
            ("state", state_text(state_name(task.state)).append("".join(f", {f}" for f in flags))),
            ("owner", task.owner),
            ("route", f"{route} ({task.hops} of at most {task.max_hops} hops)"),
            ("submitted", instant_text(task.submitted_at)),
            ("updated", instant_text(task.updated_at)),
            ("closed", instant_text(task.closed_at) + took),
            ("deadline", instant_text(task.deadline)),
            ("attempts", str(task.attempts) if task.attempts > 1 else ""),
            ("parked", _parked(task)),
            ("question", _questions(task)),
            ("waits for", _waits(task)),
            ("children", children or _children(task)),
            ("spent", _budget(task)),
            ("parent", task.parent_task_id),
            ("waited for", " → ".join(task.ancestors)),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(task.labels.items()))),
            ("history", f"version {task.version}, position {task.position}"),
            ("error", f"{error.code}: {error.message}" if task.HasField("error") else ""),
            ("", details if task.HasField("error") else ""),
            ("result", _result(task)),
        ]
    )


def _questions(task: Task) -> str:
    lines: list[str] = []
    for question in task.questions:
        lines.append(f"{question.id}  {question.prompt}")
        if question.HasField("json_schema"):
            lines.append(f"  takes {_compact(json_text(question.json_schema))}")
        if question.HasField("expires_at"):
            lines.append(f"  until {instant_text(question.expires_at)}")
    if len(task.questions) == 1:
        lines.append(f"  mesh task answer {task.task_id} --input JSON")
    elif lines:
        lines.append(f"  mesh task answer {task.task_id} --request ID --input JSON")
    return "\n".join(lines)


def _waits(task: Task) -> str:
    """Each wait on a line; between groups an `or`, for any one of them is enough."""
    lines: list[str] = []
    group = task.waits[0].group if task.waits else 0
    for wait in task.waits[:_LINES]:
        if wait.group != group:
            group = wait.group
            lines.append("or")
        who = f" ({wait.agent})" if wait.agent else ""
        due = f" {'until' if wait.what == 'input' else 'due'} {instant_text(wait.due_at)}"
        lines.append(f"{wait.what} {wait.id}{who}{due if wait.HasField('due_at') else ''}")
    return "\n".join(lines + _more(len(task.waits)))


def _children(task: Task) -> str:
    lines = [f"{child.task_id} ({child.agent})" for child in task.children[:_LINES]]
    return "\n".join(lines + _more(len(task.children)))


def _more(count: int) -> list[str]:
    return [f"… and {count - _LINES} more"] if count > _LINES else []


def _parked(task: Task) -> str:
    """Why it is held, and what to do."""
    if not task.HasField("parked"):
        return ""
    parked = task.parked
    return (
        f"at {parked.ordinal} its history has {parked.recorded or 'nothing'}, and the handler asked"
        f" for {parked.asked or 'nothing'}\n"
        f"nothing is lost: deploy a handler of `{task.owner}` that asks for what is recorded, then"
        f" `mesh task unpark {task.task_id}`"
    )


def _budget(task: Task) -> str:
    limits = [
        f"{counter} {task.spent.get(counter, 0)} of {limit}"
        for counter, limit in sorted(task.budget.items())
    ]
    free = [
        f"{counter} {n}" for counter, n in sorted(task.spent.items()) if counter not in task.budget
    ]
    return ", ".join(limits + free)


def _compact(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False)


def _result(task: Task) -> str:
    payload = task.result_payload
    if payload.data and payload.content_type.partition(";")[0] == "application/json":
        # As it was given: a protobuf value has neither whole numbers nor an order of keys.
        return json.dumps(json.loads(payload.data), ensure_ascii=False, indent=2)
    if task.HasField("result"):
        return result_text(task.result)
    if not task.HasField("result_payload"):
        return ""
    size = payload.blob.size if payload.HasField("blob") else len(payload.data)
    return f"{size} bytes of {payload.content_type or 'unnamed type'}"
