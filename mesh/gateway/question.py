"""Which question of a task an answer is for, and why one cannot be answered any more.

Source: design, section 4: of answers and the expiry, the lowest position wins.
"""

from mesh.core.event import InputReceived, TimerFired
from mesh.core.fold import evolve
from mesh.core.leg import Question
from mesh.core.task import EMPTY, Task
from mesh.errors import Invalid, QuestionClosed, Refused, TaskClosed
from mesh.gateway.reading import Reading

__all__ = ["open_question"]

_PROMPT_CHARS = 80


def open_question(reading: Reading, question_id: str) -> Question:
    """The question that an answer is for; "" is the only one that is open.

    Raises:
        QuestionClosed: It was answered, has expired, or is not open.
        TaskClosed: The task has an outcome.
        Invalid: Several are open and none was named; the text lists them.
        Refused: None is open and none was named.
    """
    task = reading.task
    if not question_id:
        return _only(task)
    question = _found(task, question_id)
    if question is not None and not task.closed:
        return question
    reason = _closed_by(reading, question_id)
    if not reason and task.closed:
        raise TaskClosed(task.task_id, state=task.state)
    raise QuestionClosed(task.task_id, request_id=question_id, reason=reason or "is not open")


def _only(task: Task) -> Question:
    if task.closed:
        raise TaskClosed(task.task_id, state=task.state)
    questions = list(task.leg.questions) if task.leg else []
    if not questions:
        raise Refused(f"task `{task.task_id}` has no open question")
    if len(questions) > 1:
        listed = "; ".join(f"`{one.id}` ({_short(one.prompt)})" for one in questions)
        raise Invalid(
            f"task `{task.task_id}` has {len(questions)} open questions, say which: {listed}"
        )
    return questions[0]


def _found(task: Task, question_id: str) -> Question | None:
    questions = task.leg.questions if task.leg else ()
    return next((one for one in questions if one.id == question_id), None)


def _closed_by(reading: Reading, question_id: str) -> str:
    """What took a question from those that are open, in words; "" if no answer or expiry did."""
    task = EMPTY
    for record in reading.records:
        before, task = task, evolve(task, record)
        if _found(before, question_id) is None or _found(task, question_id) is not None:
            continue
        event = record.envelope.event if record.envelope else None
        if isinstance(event, InputReceived):
            return "was answered already"
        return "has expired" if isinstance(event, TimerFired) else ""
    return ""


def _short(text: str) -> str:
    return text if len(text) <= _PROMPT_CHARS else f"{text[:_PROMPT_CHARS]}…"
