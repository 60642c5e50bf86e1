"""Messages addressed to an agent that nobody can read: dead-lettered with their reason."""

import logging

from mesh.agent.definition import Agent
from mesh.agent.ports import Ports
from mesh.bus.port import Delivery
from mesh.core import event as e
from mesh.core.envelope import Envelope, Sender
from mesh.core.fold import fold
from mesh.core.ids import derived_id
from mesh.core.payload import Failure
from mesh.core.subject import Subject
from mesh.errors import EnvelopeInvalid, Fenced, NameInvalid

__all__ = ["dead_letter_unreadable"]

_log = logging.getLogger(__name__)


async def dead_letter_unreadable(agent: Agent, ports: Ports, delivery: Delivery) -> None:
    """Record why a message cannot be read; the state of its task stays as it is.

    Its id is derived from the position, so that of all who try only one is stored. What stands on a
    subject of no task is left to the ledger.

    Raises:
        Contested, Unavailable: It may not be recorded; the message must come again.
    """
    record = delivery.record
    try:
        stands = Subject.parse(record.subject)
    except NameInvalid as error:
        _log.error("position %d is left to the ledger: %s", record.position, error)
        return
    root = await _root(ports, stands)
    notice = Envelope(
        event_id=derived_id(stands.task_id, "unreadable", record.position),
        tenant=stands.tenant,
        task_id=stands.task_id,
        root_task_id=root,
        sender=Sender(agent=agent.name, instance=ports.instance, behaviour_version=agent.behaviour),
        occurred_at=ports.clock.now(),
        event=e.DeadLettered(
            delivery_position=record.position,
            failure=Failure(code=EnvelopeInvalid.code, message=record.fault),
        ),
    )
    while True:
        records = await ports.bus.history(stands.task_id, root_task_id=root)
        if any(r.envelope and r.envelope.event_id == notice.event_id for r in records):
            return
        try:
            await ports.bus.append([notice], {stands.task_id: fold(records).moved})
        except Fenced:
            continue  # somebody moved the task meanwhile: look again
        return


async def _root(ports: Ports, stands: Subject) -> str:
    """The root of the task's tree, which its shard follows from; itself if none is known."""
    for record in await ports.bus.history(stands.task_id):
        if record.envelope and Subject.parse(record.subject).shard == stands.shard:
            return record.envelope.root_task_id
    return stands.task_id
