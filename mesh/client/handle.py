"""One task, as its submitter holds it."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from hashlib import sha256
from typing import Any

import anyio

from mesh.agent.payload import JSON, decode_value, encode_value
from mesh.client.line import Line
from mesh.client.output import Output, OutputReader
from mesh.core.payload import PAYLOAD_LIMIT, Payload
from mesh.errors import (
    HistoryCorrupt,
    PayloadInvalid,
    PayloadTooLarge,
    TaskCanceled,
    TaskFailed,
    TaskRejected,
    Unsuccessful,
)
from mesh.wire.v1.api_pb2 import Task
from mesh.wire.v1.gateway_pb2 import (
    AnswerTaskRequest,
    CancelTaskRequest,
    GetBlobRequest,
    GetTaskRequest,
    SignalTaskRequest,
    UnparkTaskRequest,
    WatchTaskRequest,
    WatchTaskResponse,
)
from mesh.wire.v1.payload_pb2 import Payload as PayloadMessage

__all__ = ["TaskHandle", "message_of"]

_UNSUCCESSFUL: dict[int, type[Unsuccessful]] = {
    Task.FAILED: TaskFailed,
    Task.REJECTED: TaskRejected,
    Task.CANCELED: TaskCanceled,
}


class TaskHandle:
    """A task by its id; `warnings` and `duplicate` are what its submit was answered."""

    def __init__(
        self, line: Line, task_id: str, *, warnings: tuple[str, ...] = (), duplicate: bool = False
    ) -> None:
        self.id, self.warnings, self.duplicate = task_id, warnings, duplicate
        self._line = line

    async def info(self) -> Task:
        """The task now.

        Raises:
            TaskUnknown: There is no such task.
            Unavailable: The gateway is gone.
        """
        return await self._line.call(self._line.stub.GetTask, GetTaskRequest(task_id=self.id))

    async def result(self, *, timeout_s: float | None = None, as_type: Any = None) -> Any:
        """Wait for the outcome.

        Args:
            timeout_s: How long to wait, seconds; None for ever.
            as_type: Type to read the result as, such as a pydantic model or a dataclass; without
                one, JSON is a Python value, text a `str`, anything else `bytes`.

        Returns:
            The result's value, None if the task completed without one.

        Raises:
            TaskFailed: It failed, or was dead-lettered.
            TaskRejected: An agent would not take it.
            TaskCanceled: It was cancelled.
            PayloadInvalid: The result does not fit `as_type`.
            TimeoutError: There was no outcome in time.
            Unavailable: The gateway is gone.
        """
        with anyio.fail_after(
            timeout_s,
            reason=f"task `{self.id}` has no outcome after"
            f" {timeout_s} s; `mesh task show {self.id}` says what it waits for",
        ):
            task = await self._closed()
            kind = _UNSUCCESSFUL.get(task.state)
            if kind is not None:
                raise kind(
                    task.task_id,
                    state=Task.State.Name(task.state),
                    reason=task.error.message or task.cancel_reason,
                    failure_code=task.error.code,
                )
            if not task.HasField("result_payload"):
                return None
            payload = await self._payload(task.result_payload)
        return _value(payload) if as_type is None else decode_value(payload, as_type)

    async def watch(
        self, *, after: int = 0, live: bool = False
    ) -> AsyncGenerator[WatchTaskResponse]:
        """The task now, then each event above position `after` with the state after it.

        Ends when the task has an outcome. Goes on where it was when the gateway comes back.

        Args:
            after: Position of the last event that was seen, 0 for none.
            live: Give what the handler emits too, as it comes: updates with `live`, and nothing
                else, between the others. Numbers of a run ascend; some may be missing, and what is
                void is not taken back. `stream` puts it right.

        Raises:
            TaskUnknown: There is no such task.
            Unavailable: The gateway is gone.
        """
        seen = ("", 0)
        async with aclosing(self._updates(after, (lambda: seen) if live else None)) as updates:
            async for update in updates:
                if update.HasField("live"):
                    seen = update.live.run, update.live.number
                yield update

    async def stream(self) -> AsyncGenerator[Output]:
        """What the task emits, from its begin to its outcome, as it comes.

        Each character comes once and in order, live or, where that got lost, when it is recorded;
        also over a restart of the gateway. A run that ends before all it showed is recorded, as in
        a crash, leaves text that is void: the next piece says how much it takes back. So::

            text = ""
            async for piece in task.stream():
                text = piece.added_to(text)

        ends with exactly the text that the task's events record. Whoever cannot take back what was
        given, as on a terminal, can only say so.

        Raises:
            TaskUnknown: There is no such task.
            Unavailable: The gateway is gone.
        """
        reader = OutputReader()
        async with aclosing(self._updates(0, lambda: reader.last)) as updates:
            async for update in updates:
                for piece in reader.take(update):
                    yield piece

    async def _updates(
        self, after: int, last: Callable[[], tuple[str, int]] | None
    ) -> AsyncGenerator[WatchTaskResponse]:
        """Updates through restarts of the gateway; live ones after the chunk that `last` tells."""
        position, begun = after, False

        def request() -> WatchTaskRequest:
            run, number = last() if last else ("", 0)
            return WatchTaskRequest(
                task_id=self.id,
                after_position=position,
                live=last is not None,
                live_run=run,
                live_number=number,
            )

        updates = self._line.follow(self._line.stub.WatchTask, request)
        async with aclosing(updates):
            async for update in updates:
                if update.HasField("event"):
                    position = update.event.position
                elif not update.HasField("live"):
                    if begun:
                        continue
                    begun = True
                yield update

    async def cancel(self, reason: str = "") -> Task:
        """Ask its owner to wind up; asking again changes nothing.

        Raises:
            TaskUnknown: There is no such task.
            TaskClosed: It has an outcome already.
            Unavailable: The gateway is gone.
        """
        request = CancelTaskRequest(task_id=self.id, reason=reason)
        return await self._line.call(self._line.stub.CancelTask, request)

    async def answer(self, value: Any, *, question_id: str = "") -> Task:
        """Answer an open question of it.

        Args:
            value: As for a submit, but a `str` is a JSON string too.
            question_id: Which question; may be left out while only one is open.

        Raises:
            AnswerInvalid: The value does not fit the question, which stays open; `field` says
                where.
            QuestionClosed: It was answered, has expired, or is not open.
            TaskClosed: The task has an outcome already.
            TaskUnknown: There is no such task.
            Refused: No question is open.
            Invalid: Several are open, and none was named.
            Unavailable: The gateway is gone.
        """
        # Questions take JSON; a text as such would fit none that has a schema.
        request = AnswerTaskRequest(
            task_id=self.id,
            question_id=question_id,
            answer=message_of(_json_text(value) if isinstance(value, str) else encode_value(value)),
            request_id=self._line.ids.fresh(),
        )
        return await self._line.call(self._line.stub.AnswerTask, request)

    async def signal(self, name: str, value: Any = None) -> Task:
        """Give it a named signal; it waits there until its handler asks for it.

        Args:
            name: 1 to 63 of a-z, 0-9 and -, beginning with a letter.
            value: What goes with it, as for a submit.

        Raises:
            TaskClosed: It has an outcome already.
            TaskUnknown: There is no such task.
            NameInvalid: The name cannot be one.
            Unavailable: The gateway is gone.
        """
        request = SignalTaskRequest(
            task_id=self.id,
            name=name,
            value=None if value is None else message_of(encode_value(value)),
            request_id=self._line.ids.fresh(),
        )
        return await self._line.call(self._line.stub.SignalTask, request)

    async def unpark(self, reason: str = "") -> Task:
        """Let it go on after it was held, with a handler that asks for what its history recorded.

        Raises:
            NotParked: It is not held.
            TaskUnknown: There is no such task.
            Unavailable: The gateway is gone.
        """
        request = UnparkTaskRequest(
            task_id=self.id, reason=reason, request_id=self._line.ids.fresh()
        )
        return await self._line.call(self._line.stub.UnparkTask, request)

    async def _closed(self) -> Task:
        """The task with its outcome."""
        task = await self.info()
        # A task that is closed can be redriven before the next look at it.
        while not task.HasField("closed_at"):
            updates = self.watch(after=task.position)
            async with aclosing(updates):
                async for update in updates:
                    task = update.task
        return task

    async def _payload(self, message: PayloadMessage) -> Payload:
        data = message.data
        if message.HasField("blob"):
            data = await self._blob(message)
        return Payload(content_type=message.content_type, schema=message.schema, data=data)

    async def _blob(self, message: PayloadMessage) -> bytes:
        blob, parts = message.blob, bytearray()

        def request() -> GetBlobRequest:
            parts.clear()
            return GetBlobRequest(sha256=blob.sha256, uri=blob.uri, size=blob.size)

        chunks = self._line.follow(self._line.stub.GetBlob, request)
        async with aclosing(chunks):
            async for reply in chunks:
                parts += reply.chunk
        if sha256(parts).hexdigest() != blob.sha256:
            raise HistoryCorrupt(f"the result of task `{self.id}` is not what its claim check says")
        return bytes(parts)


def message_of(payload: Payload) -> PayloadMessage:
    """A payload as requests carry it.

    Raises:
        PayloadTooLarge: It is over 64 MiB.
    """
    if len(payload.data) > PAYLOAD_LIMIT:
        # Here, because gRPC would refuse the message before the gateway could say why.
        raise PayloadTooLarge(size_bytes=len(payload.data), limit_bytes=PAYLOAD_LIMIT)
    return PayloadMessage(
        content_type=payload.content_type, schema=payload.schema, data=payload.data
    )


def _json_text(value: str) -> Payload:
    return Payload(content_type=JSON, data=json.dumps(value).encode())


def _value(payload: Payload) -> Any:
    media = payload.content_type.partition(";")[0].strip()
    if media.startswith("text/"):
        return decode_value(payload, str)
    if media != JSON:
        return decode_value(payload, bytes)
    try:
        return json.loads(payload.data or b"null")
    except ValueError as error:
        raise PayloadInvalid(f"the result says it is JSON and is not: {error}") from error
