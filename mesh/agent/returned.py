"""What comes back to a handler, as the value or the error that it gets.

Source: design, section 4.
"""

from typing import Any

from mesh.agent.payload import decode_plain, decode_value
from mesh.agent.record import Completion, Question
from mesh.blob.claim import redeem
from mesh.blob.port import BlobStore
from mesh.core import event as e
from mesh.core.payload import Failure, Payload
from mesh.core.task import State
from mesh.errors import ChildFailed, MeshError, PayloadInvalid, QuestionClosed, StepFailed

__all__ = ["outcome_of"]

# Any: the types of values are their authors'.


async def outcome_of(
    completion: Completion, question: Question | None, kind: Any, blobs: BlobStore, task_id: str
) -> Any:
    """The value, or the error to be raised.

    Args:
        completion: What came back.
        question: What was asked for, as it is recorded; None while that is not known here.
        kind: The type that the value is to have.
        blobs: Where large values are.
        task_id: Whose handler it is.
    """
    if isinstance(completion, e.TimerFired) and not isinstance(question, e.InputRequested):
        return None
    if failure := _failure(completion, question, task_id):
        return failure
    try:
        payload = await redeem(_payload(completion, question) or Payload(), blobs)
        return decode_plain(payload) if kind is Any else decode_value(payload, kind)
    except PayloadInvalid as error:
        return error


def _payload(completion: Completion, question: Question | None) -> Payload | None:
    match completion:
        case e.StepRecorded() | e.Signaled():
            return completion.value
        case e.ChildFinished():
            return completion.result
        case e.InputReceived():
            return completion.answer
        case e.TimerFired():
            return question.default if isinstance(question, e.InputRequested) else None


def _failure(completion: Completion, question: Question | None, task_id: str) -> MeshError | None:
    match completion:
        case e.StepRecorded() if completion.failure:
            return StepFailed(
                task_id,
                name=completion.name,
                ordinal=completion.ordinal,
                reason=completion.failure.message,
                failure_code=completion.failure.code,
            )
        case e.ChildFinished() if completion.state != State.COMPLETED:
            failure = completion.failure or Failure(code="", message="")
            return ChildFailed(
                completion.child_task_id,
                state=completion.state,
                reason=failure.message,
                failure_code=failure.code,
            )
        case e.TimerFired() if isinstance(question, e.InputRequested) and not question.default:
            return QuestionClosed(task_id, request_id=question.request_id, reason="has expired")
        case _:
            return None
