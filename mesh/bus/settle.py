"""An append that is certain: stored, or refused, or the bus was gone for too long.

The answer to an append may be lost. Repeating it blindly could refuse a writer's own events to it,
or, for events without a fence, store them twice. `settle` reads first. Its cases:

- All events stand as written here: stored, whatever the answers said.
- None stands: append again with the same ids. Should the first try land in between, the log
  answers the second with a refusal or a duplicate, and the bus tells from the log that it is the
  same event. Should it land after, the fence or the remembered id refuses the late copy.
- Some stand: only an append of several batches (over 500 events); append again, the bus skips
  what stands.
- Another writer moved a task: Fenced, as the append says. Its answer is final even after a lost
  one: the bus gives it only when it has read that these events do not stand, and a late first try
  is refused by the same fence.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count

import anyio

from mesh.bus.draft import standing
from mesh.bus.port import Bus
from mesh.clock import SystemIds
from mesh.core.backoff import Backoff
from mesh.core.envelope import Envelope, Record
from mesh.errors import LogFull, MeshError, Unavailable, Unresolved

__all__ = ["settle"]

_AGAIN = Backoff(first_s=0.05, limit_s=1.0)


async def settle(
    bus: Bus,
    envelopes: Sequence[Envelope],
    expected: Mapping[str, int],
    *,
    deadline_s: float,
    jitter: Callable[[], float] | None = None,
) -> tuple[int, ...]:
    """Append, and find out what became of it.

    Args:
        bus: Where to.
        envelopes: As for `Bus.append`.
        expected: As for `Bus.append`.
        deadline_s: How long to try, seconds, below the two minutes that the log remembers ids;
            one more call's own time may pass.
        jitter: Spreads the retries, numbers in [0, 1).

    Returns:
        The positions of the events.

    Raises:
        Fenced: Another writer moved a task first; nothing was written.
        Unresolved: The time is up, and an answer is still missing.
        Unavailable: The time is up, and nothing was ever sent.
        LogFull: The log takes no more.
        EnvelopeInvalid: As for `Bus.append`.
    """
    jitter = jitter or SystemIds().random
    deadline = anyio.current_time() + deadline_s
    unknown: Unresolved | None = None
    reason: MeshError
    for attempt in count(1):
        try:
            if unknown is not None:
                positions = await _standing(bus, envelopes)
                if positions is not None:
                    return positions
            return await bus.append(envelopes, expected)
        except Unresolved as error:
            unknown, reason = error, error
        except LogFull:
            raise
        except Unavailable as error:
            reason = error
        pause = _AGAIN.delay_s(attempt, jitter())
        if anyio.current_time() + pause >= deadline:
            raise unknown or reason
        await anyio.sleep(pause)
    raise AssertionError("unreachable")


async def _standing(bus: Bus, envelopes: Sequence[Envelope]) -> tuple[int, ...] | None:
    """Positions of the events if all of them stand as these very ones, else None."""
    records: list[Record] = []
    for task_id, root in {e.task_id: e.root_task_id for e in envelopes}.items():
        records += await bus.history(task_id, root_task_id=root)
    found = standing(records, envelopes)
    if len(found) < len(envelopes) or not all(mine for _, mine in found.values()):
        return None
    return tuple(found[envelope.event_id][0] for envelope in envelopes)
