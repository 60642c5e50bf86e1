"""An append that ends in an answer."""

from collections.abc import Mapping, Sequence

import anyio

from mesh.bus.draft import standing
from mesh.bus.port import Bus
from mesh.core.backoff import Backoff
from mesh.core.envelope import Envelope
from mesh.errors import Unresolved


async def settle(
    bus: Bus, envelopes: Sequence[Envelope], expected: Mapping[str, int], *, deadline_s: float
) -> tuple[int, ...]:
    """Append; after no answer read the task and append the same events again.

    Raises:
        Fenced: Another writer moved a task first.
        Unresolved: No answer within `deadline_s`.
    """
    until, backoff, attempt = anyio.current_time() + deadline_s, Backoff(first_s=0.05), 0
    while True:
        try:
            return await bus.append(envelopes, expected)
        except Unresolved:
            attempt += 1
            found = standing(await bus.history(envelopes[0].task_id), envelopes)
            if len(found) == len(envelopes) and all(mine for _, mine in found.values()):
                return tuple(found[e.event_id][0] for e in envelopes)
            if anyio.current_time() >= until:
                raise
        await anyio.sleep(backoff.delay_s(attempt, 0.5))
