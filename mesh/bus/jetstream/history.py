"""One task's records straight from the log, complete at its leader."""

import json
from base64 import b64decode
from collections.abc import Mapping

import anyio

from mesh.bus.jetstream.replies import Api, Replies, status
from mesh.bus.jetstream.stream import instant, stream_name
from mesh.core.envelope import Record
from mesh.core.subject import Subject
from mesh.errors import Unavailable, Unresolved
from mesh.wire.codec import read_record

__all__ = ["History"]

_NO_MESSAGE = 10037
_AGAIN_S = 0.02
_PAGE = 256


class History:
    """Reads tasks.

    Any replica answers a direct get, and may lag behind an append that was just acknowledged. So
    the leader is asked for the last position of the task first, and a read that does not reach it
    is repeated from where it ended.
    """

    def __init__(self, replies: Replies, tenant: str) -> None:
        self._replies, self._tenant = replies, tenant

    async def read(self, shard: str, task_id: str, after: int, deadline: float) -> list[Record]:
        """A task's records above `after`, ascending.

        Raises:
            Unavailable: They could not be read completely until `deadline`.
        """
        subjects = Subject.of_task(self._tenant, shard, task_id)
        records: list[Record] = []
        reason = "the replicas lag behind"
        while True:
            try:
                last = await self.last(shard, subjects, deadline)
                seen = records[-1].position if records else after
                while seen < last:
                    page = await self._page(shard, subjects, seen + 1, deadline)
                    if not page:
                        break
                    records += page
                    seen = page[-1].position
                if seen >= last:
                    return records
            except (Unavailable, Unresolved) as error:
                reason = str(error)
            await _pause(deadline, f"task `{task_id}` cannot be read completely: {reason}")

    async def head(self, shard: str, task_id: str, deadline: float) -> Record | None:
        """A task's last moving record, as its leader has it; None if nothing stands there.

        Raises:
            Unavailable: The leader did not answer until `deadline`.
        """
        subjects = Subject.fence(self._tenant, shard, task_id)
        while True:
            try:
                answer = await self._last(shard, subjects, deadline)
                return _head(answer["message"]) if answer else None
            except Unavailable as error:
                reason = str(error)
            await _pause(deadline, f"head of task `{task_id}` cannot be read: {reason}")

    async def last(self, shard: str, subjects: str, deadline: float) -> int:
        """The leader's last position for a filter, 0 if nothing stands there.

        Raises:
            Unavailable: The leader does not answer in time.
        """
        answer = await self._last(shard, subjects, deadline)
        return int(answer["message"]["seq"]) if answer else 0

    async def _last(self, shard: str, subjects: str, deadline: float) -> Api | None:
        """The leader's last message for a filter."""
        stream = stream_name(self._tenant, shard)
        answer = await self._replies.api(
            f"STREAM.MSG.GET.{stream}", {"last_by_subj": subjects}, deadline
        )
        if answer.error_code == _NO_MESSAGE:
            return None
        if answer.error_code:
            raise Unavailable(f"log of shard `{shard}`: {answer.error}")
        return answer

    async def _page(self, shard: str, subjects: str, start: int, deadline: float) -> list[Record]:
        request = {"seq": start, "batch": _PAGE, "next_by_subj": subjects}
        answers = await self._replies.ask(
            f"$JS.API.DIRECT.GET.{stream_name(self._tenant, shard)}",
            json.dumps(request).encode(),
            deadline,
            enough=lambda message: bool(status(message)),
        )
        return [_record(a.headers or {}, a.data) for a in answers if not status(a)]


async def _pause(deadline: float, reason: str) -> None:
    """Before a read is repeated, if there is time for that."""
    if anyio.current_time() + _AGAIN_S >= deadline:
        raise Unavailable(reason)
    await anyio.sleep(_AGAIN_S)


def _head(message: Mapping[str, str]) -> Record:
    # What is empty is left out.
    raw = b64decode(message.get("data", ""))
    return read_record(int(message["seq"]), instant(message["time"]), message["subject"], raw)


def _record(headers: Mapping[str, str], raw: bytes) -> Record:
    return read_record(
        int(headers["Nats-Sequence"]),
        instant(headers["Nats-Time-Stamp"]),
        headers["Nats-Subject"],
        raw,
    )
