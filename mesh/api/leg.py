"""What is open in a task, as it is shown: questions, waits, children, and why it is held."""

from google.protobuf.struct_pb2 import Value

from mesh.api.instant import instant
from mesh.api.plain import readable
from mesh.core.event import Wait
from mesh.core.leg import CHILD, INPUT, TIMER, Leg
from mesh.core.payload import Payload
from mesh.wire.v1 import api_pb2 as api

__all__ = ["fill_leg"]


def fill_leg(shown: api.Task, leg: Leg, *, with_questions: bool, with_waits: bool) -> None:
    """Show a task's leg; questions carry their schemas, and waits may be thousands."""
    if leg.parked is not None:
        shown.parked.ordinal = leg.parked.ordinal
        shown.parked.recorded, shown.parked.asked = leg.parked.recorded, leg.parked.asked
        shown.parked.SetInParent()
    if not with_questions:
        return
    for question in leg.questions:
        one = shown.questions.add(
            id=question.id, prompt=question.prompt, expires_at=instant(question.expires_at)
        )
        if question.json_schema:
            one.json_schema.CopyFrom(_schema(question.json_schema))
    if not with_waits:
        return
    for child in leg.children:
        shown.children.add(task_id=child.id, agent=child.agent, budget=child.budget)
    _fill_waits(shown, leg)


def _fill_waits(shown: api.Task, leg: Leg) -> None:
    due = {(TIMER, timer.id): timer.fires_at for timer in leg.timers}
    due |= {(INPUT, question.id): question.expires_at for question in leg.questions}
    agents = {(CHILD, child.id): child.agent for child in leg.children}
    for wait in sorted(leg.waits, key=_group):
        what = (wait.what, wait.id)
        shown.waits.add(
            what=wait.what,
            id=wait.id,
            group=wait.group,
            due_at=instant(due.get(what)),
            agent=agents.get(what, ""),
        )


def _group(wait: Wait) -> int:
    return wait.group


def _schema(text: str) -> Value:
    """A JSON Schema as JSON; what is none, or cannot be shown so, as text."""
    value = readable(Payload(content_type="application/json", data=text.encode()))
    return Value(string_value=text) if value is None else value
