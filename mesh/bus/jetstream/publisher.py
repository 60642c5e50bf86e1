"""Appends: fenced publishes and atomic batches, each answered, refused or unresolved in time.

What nats-server 2.15.1 checks first was measured and differs between the two: a plain publish is
judged by its fence before its id, so that the repetition of one that is stored is *refused*
(10071), and shows as `duplicate: true` only if it carries no fence. In a batch an id that is known
comes first (10201), whatever the fences say. So neither answer tells who wrote what stands there:
after any of the three the tasks are read.

With replicas there are two more: 10164 and 10158 mean that another append to the same task, or of
the same id, is on its way through the replicas. Nothing shows yet; it may still come to nothing.
So the task is read, and if it does not tell, the same events are sent again.
"""

import json
from collections.abc import Sequence
from itertools import count

import anyio

from mesh.bus.draft import Draft, standing
from mesh.bus.jetstream.history import History
from mesh.bus.jetstream.replies import Api, Replies
from mesh.core.backoff import Backoff
from mesh.core.envelope import Record
from mesh.core.subject import MOVING, Subject
from mesh.errors import Fenced, LogFull, MeshError, Unavailable, Unresolved

__all__ = ["BATCH_LIMIT", "Publisher"]

BATCH_LIMIT = 500
"""Most events in one atomic batch; the server takes 1,000."""
_OPEN_BATCHES = 8
"""At a time and process; a stream takes 50, of all processes together."""
_STALE, _STALE_IN_PROCESS = 10071, 10164
_DUPLICATE_ID, _DUPLICATE_IN_PROCESS = 10201, 10158
_FULL = 10077
_CONTESTED = (_STALE, _STALE_IN_PROCESS, _DUPLICATE_ID, _DUPLICATE_IN_PROCESS)
_IN_PROCESS = (_STALE_IN_PROCESS, _DUPLICATE_IN_PROCESS)
_AGAIN = Backoff(first_s=0.02, limit_s=0.5)


class Publisher:
    """The write side of one bus."""

    def __init__(self, replies: Replies, history: History, *, tenant: str) -> None:
        self._replies, self._history, self._tenant = replies, history, tenant
        self._batches = anyio.Semaphore(_OPEN_BATCHES)

    async def store(self, batch: Sequence[Draft], deadline: float) -> tuple[int, ...]:
        """Store one event, or several atomically; at most `BATCH_LIMIT`.

        Raises:
            Fenced: A task was moved by somebody else; nothing was written.
            Unresolved: No answer until `deadline`, or it could not be understood.
            Unavailable: Nothing was written.
            LogFull: The log takes no more.
            ConfigError: The broker forbids it.
        """
        for attempt in count(1):
            error: MeshError
            try:
                answer = await self._send(batch, deadline)
                if not answer.error_code and not answer.get("duplicate"):
                    last = int(answer["seq"])
                    return tuple(range(last - len(batch) + 1, last + 1))
                positions = await self._understand(batch, answer, deadline)
                if positions:
                    return positions
                error = Unresolved(f"contested: {answer.error}")
            except LogFull:
                raise
            except Unavailable as unavailable:
                error = unavailable
            pause = _AGAIN.delay_s(attempt, self._replies.jitter())
            if anyio.current_time() + pause >= deadline:
                raise error
            await anyio.sleep(pause)
        raise AssertionError("unreachable")

    async def _understand(
        self, batch: Sequence[Draft], answer: Api, deadline: float
    ) -> tuple[int, ...]:
        """The positions if the events stand; nothing if it cannot be told yet.

        Raises:
            Fenced: Another writer was quicker.
            Unresolved: The tasks cannot be read.
            Unavailable: Refused for now.
            LogFull: The log takes no more.
        """
        code = answer.error_code
        if code in _CONTESTED or not code:
            return await self._judge(batch, deadline, final=code not in _IN_PROCESS)
        reason = f"the log refused: {answer.error}"
        raise LogFull(reason) if code == _FULL else Unavailable(reason)

    async def _send(self, batch: Sequence[Draft], deadline: float) -> Api:
        if len(batch) == 1:
            (draft,) = batch
            answers = await self._replies.ask(
                draft.subject, draft.raw, deadline, headers=self._headers(draft)
            )
            return Api(json.loads(answers[0].data))
        free = False
        with anyio.CancelScope(deadline=deadline):
            await self._batches.acquire()
            free = True
        if not free:
            raise Unavailable("too many batches are open in this process")
        try:
            return await self._send_batch(batch, deadline)
        finally:
            self._batches.release()

    async def _send_batch(self, batch: Sequence[Draft], deadline: float) -> Api:
        """All but the last one are answered with nothing, or with why the batch is dead."""
        replies = self._replies
        await replies.connected(deadline)
        subjects = frozenset(draft.subject for draft in batch)
        with (
            replies.asking(subjects, lambda _: False) as (aside, steps),
            replies.asking(subjects, lambda _: True) as (reply, commit),
        ):
            with anyio.CancelScope(deadline=deadline):
                for n, draft in enumerate(batch, 1):
                    headers = self._headers(draft)
                    headers["Nats-Batch-Id"] = reply
                    headers["Nats-Batch-Sequence"] = str(n)
                    if n == len(batch):
                        headers["Nats-Batch-Commit"] = "1"
                    to = reply if n == len(batch) else aside
                    await replies.connection.say(draft.subject, draft.raw, to, headers)
                await commit.done.wait()
            answer = Api(json.loads(replies.outcome(commit)[0].data))
            first = next((step.data for step in steps.answers if step.data), b"")
            return Api(json.loads(first)) if answer.error_code and first else answer

    def _headers(self, draft: Draft) -> dict[str, str]:
        headers = {"Nats-Msg-Id": draft.event_id}
        if draft.expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(draft.expected)
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = Subject.fence(
                self._tenant, draft.shard, draft.task_id
            )
        trace = draft.envelope.trace
        for name in ("traceparent", "tracestate", "baggage"):
            if value := getattr(trace, name):
                headers[name] = value
        return headers

    async def _judge(
        self, batch: Sequence[Draft], deadline: float, *, final: bool
    ) -> tuple[int, ...]:
        """Tell from the log whether these very events stand, or somebody was quicker."""
        records: dict[str, list[Record]] = {}
        try:
            for draft in batch:
                if draft.task_id not in records:
                    records[draft.task_id] = await self._history.read(
                        draft.shard, draft.task_id, 0, deadline
                    )
        except Unavailable as error:
            raise Unresolved(f"refused, and the task cannot be read to see why: {error}") from error
        found = standing(
            (record for each in records.values() for record in each),
            (draft.envelope for draft in batch),
        )
        if len(found) == len(batch) and all(mine for _, mine in found.values()):
            return tuple(found[draft.event_id][0] for draft in batch)
        refusal = _refusal(batch, records, {event: at for event, (at, _) in found.items()})
        if refusal.actual is None and not final:
            return ()
        raise refusal


def _refusal(
    batch: Sequence[Draft], records: dict[str, list[Record]], found: dict[str, int]
) -> Fenced:
    fences = [draft for draft in batch if draft.expected is not None]
    for draft in fences:
        moving = (r.position for r in records[draft.task_id] if r.subject.split(".")[5] == MOVING)
        actual = max(moving, default=0)
        if actual != draft.expected:
            return Fenced(draft.task_id, expected=draft.expected or 0, actual=actual)
    for draft in batch:
        if draft.event_id in found:
            return Fenced(draft.task_id, expected=draft.expected or 0, actual=found[draft.event_id])
    first = fences[0] if fences else batch[0]
    return Fenced(first.task_id, expected=first.expected or 0)
