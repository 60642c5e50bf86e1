"""Projections as rows of the store: their names, keys, order, tags and bytes.

| projection | key | order | tags |
|---|---|---|---|
| `task` | task id | place of its first record | state, owner |
| `agent` | shard/agent | 0 | shard |
| `dead_letter` | task id/position of the delivery | place of the event, negative | agent |
| `notice` | event id of the notice | place of the unreadable message | shard |

An agent's counts are kept per shard, so that shards do not meet in one row; readers add them up.
Dead letters are listed oldest first, all else newest first.
"""

from mesh.core.envelope import Record
from mesh.core.projection import Activity, DeadLetterEntry
from mesh.core.task import Task
from mesh.store.port import Row
from mesh.wire import mirror
from mesh.wire.codec import encode_task
from mesh.wire.v1.api_pb2 import DeadLetterEntry as DeadLetterMessage
from mesh.wire.v1.ledger_pb2 import AgentActivity

__all__ = [
    "AGENT",
    "DEAD_LETTER",
    "NOTICE",
    "TASK",
    "agent_key",
    "agent_row",
    "dead_letter_row",
    "decode_activity",
    "decode_dead_letter",
    "gone",
    "notice_row",
    "order_of",
    "place_of",
    "task_row",
]

TASK, AGENT, DEAD_LETTER, NOTICE = "task", "agent", "dead_letter", "notice"
_SHARDS = 1024


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


def gone(projection: str, key: str) -> Row:
    """The removal of a row."""
    return Row(projection=projection, key=key, state=None)
