"""Projections as rows of the store: their names, keys, order, tags and bytes.

| projection | key | order | tags |
|---|---|---|---|
| `task` | task id | place of its first record | state, owner |
| `agent` | shard/agent | 0 | shard |
| `dead_letter` | task id/position of the delivery | place of the event, negative | agent |
| `notice` | event id of the notice | place of the unreadable message | shard |
| `timer` | task id/timer id | when it is due, milliseconds since 1970 | shard |

An agent's counts are kept per shard, so that shards do not meet in one row; readers add them up.
Dead letters are listed oldest first, all else newest first. A timer's state is the very event to be
appended when it is due, but for the process that does it; its `occurred_at` is when it is due.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.event import TimerFired
from mesh.core.ids import derived_id
from mesh.core.projection import Activity, DeadLetterEntry, timers_of
from mesh.core.task import Task
from mesh.store.port import Row
from mesh.wire import mirror
from mesh.wire.codec import decode, encode, encode_task
from mesh.wire.v1.api_pb2 import DeadLetterEntry as DeadLetterMessage
from mesh.wire.v1.ledger_pb2 import AgentActivity

__all__ = [
    "AGENT",
    "DEAD_LETTER",
    "NOTICE",
    "TASK",
    "TIMER",
    "agent_key",
    "agent_row",
    "dead_letter_row",
    "decode_activity",
    "decode_dead_letter",
    "decode_timer",
    "gone",
    "notice_row",
    "order_of",
    "place_of",
    "task_row",
    "timer_rows",
]

TASK, AGENT, DEAD_LETTER, NOTICE = "task", "agent", "dead_letter", "notice"
TIMER = "timer"
_SHARDS = 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def order_of(shard: str, position: int) -> int:
    """One number for a place in all shards' logs: no two places share it."""
    return position * _SHARDS + int(shard[1:])


def place_of(order: int) -> tuple[str, int]:
    """Shard and position that `order_of` was given."""
    return f"s{order % _SHARDS}", order // _SHARDS


def task_row(task: Task, *, key: str, order: int) -> Row:
    """A task's row; of a task never submitted too, so that its versions are counted."""
    tags = {"state": task.state.value, "owner": task.owner}
    return Row(projection=TASK, key=key, state=encode_task(task), order=order, tags=tags)


def agent_key(shard: str, agent: str) -> str:
    """Key of an agent's counts in one shard."""
    return f"{shard}/{agent}"


def agent_row(activity: Activity, *, shard: str) -> Row:
    """An agent's counts in one shard."""
    message = AgentActivity()
    mirror.fill(message, activity)
    return Row(
        projection=AGENT,
        key=agent_key(shard, activity.agent),
        state=message.SerializeToString(deterministic=True),
        tags={"shard": shard},
    )


def decode_activity(state: bytes) -> Activity:
    """The counts that `agent_row` wrote."""
    message = AgentActivity()
    message.ParseFromString(state)
    return mirror.read(message, Activity)


def dead_letter_row(key: str, entry: DeadLetterEntry, *, shard: str) -> Row:
    """A dead letter."""
    message = DeadLetterMessage()
    mirror.fill(message, entry)
    return Row(
        projection=DEAD_LETTER,
        key=key,
        state=message.SerializeToString(deterministic=True),
        order=-order_of(shard, entry.position),
        tags={"agent": entry.agent},
    )


def decode_dead_letter(state: bytes) -> DeadLetterEntry:
    """The entry that `dead_letter_row` wrote."""
    message = DeadLetterMessage()
    message.ParseFromString(state)
    return mirror.read(message, DeadLetterEntry)


def notice_row(key: str, record: Record, *, shard: str) -> Row:
    """A debt: a message nobody can read, of which the log does not say so yet."""
    return Row(
        projection=NOTICE,
        key=key,
        state=b"",
        order=order_of(shard, record.position),
        tags={"shard": shard},
    )


def timer_rows(before: Task, record: Record, after: Task, *, shard: str) -> list[Row]:
    """What a record changes in the timers that are to be fired for its task.

    A deadline is written anew when the task changes hands: the event goes to the new owner, under
    an id of its own, for a former owner's would fold to nothing.

    Args:
        before: The record's task, folded up to but not including it.
        record: The record.
        after: The task with the record applied.
        shard: Where it stands.
    """
    setter = record.envelope
    if setter is None:
        return []
    was, now = timers_of(before), timers_of(after)
    prefix = f"{setter.task_id}/"
    rows = [gone(TIMER, prefix + timer_id) for timer_id in was if timer_id not in now]
    for timer_id, due in now.items():
        if was.get(timer_id) == due and before.owner == after.owner:
            continue
        # Named after what put it here, so that no two are ever the same, on whatever run.
        fired = setter.next(
            TimerFired(timer_id=timer_id),
            event_id=derived_id(setter.event_id, f"{TimerFired.kind}/{timer_id}"),
            sender=Sender(agent="ledger"),
            occurred_at=due,
        )
        rows.append(
            Row(
                projection=TIMER,
                key=prefix + timer_id,
                state=encode(replace(fired, to=after.owner)),
                # Above 0, which a page's token may not be.
                order=max(1, (due - _EPOCH) // timedelta(milliseconds=1)),
                tags={"shard": shard},
            )
        )
    return rows


def decode_timer(state: bytes) -> Envelope:
    """The event that `timer_rows` wrote; its `occurred_at` is when it is due."""
    return decode(state)


def gone(projection: str, key: str) -> Row:
    """The removal of a row."""
    return Row(projection=projection, key=key, state=None)
