import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mesh.core import event as e
from mesh.core.envelope import Envelope, Record, Sender, TraceContext
from mesh.core.payload import Failure
from mesh.core.task import State
from mesh.replay.trace import Span, Status, Trace, trace_of
from mesh.replay.trace_text import trace_json, trace_text
from mesh.telemetry import names
from mesh.telemetry.context import PROCESS, span_id, stamped

TASK = "a" * 32
START = datetime(2026, 11, 22, 12, tzinfo=UTC)
BOOM = Failure(code="python.ValueError", message="boom")
CALLER = TraceContext(traceparent=f"00-{'c' * 32}-{'d' * 16}-01")


class History:
    """Records as workers write them; times are milliseconds since the start."""

    def __init__(self, caller: TraceContext | None = None) -> None:
        self.records: list[Record] = []
        self.caller = caller

    def submit(self, at: int, to: str = "planner") -> Envelope:
        return self._store(
            Envelope(
                event_id=f"{1:032x}",
                tenant="t",
                task_id=TASK,
                root_task_id=TASK,
                sender=Sender(agent="gateway", instance="9-gate"),
                occurred_at=START + timedelta(milliseconds=at),
                event=e.TaskSubmitted(),
                to=to,
            )
        )

    def write(
        self,
        cause: Envelope,
        event: e.TaskEvent,
        at: int,
        *,
        began: int | None = None,
        attempt: int = 1,
        pid: int = 7,
        to: str = "log",
    ) -> Envelope:
        """An event of the run that `cause`'s agent began; of the gateway's without a run."""
        sender = (
            Sender(agent="gateway", instance="9-gate")
            if began is None
            else Sender(agent=cause.to, instance=f"{pid}-{cause.to}", behaviour_version="1.0.0")
        )
        occurred_at = START + timedelta(milliseconds=at)
        event_id = f"{len(self.records) + 1:032x}"
        made = cause.next(event, event_id=event_id, sender=sender, occurred_at=occurred_at)
        if began is not None:
            started_at = START + timedelta(milliseconds=began)
            made = replace(made, attempt=attempt, started_at=started_at)
        return self._store(replace(made, to=to))

    def unreadable(self, at: int) -> None:
        subject = f"mesh.t.s0.planner.{TASK}.m.gateway"
        self._keep(START + timedelta(milliseconds=at), subject, None)

    def _store(self, envelope: Envelope) -> Envelope:
        made = stamped(envelope, self.caller if not self.records else None)
        self._keep(made.occurred_at + timedelta(milliseconds=1), str(made.subject("s0")), made)
        return made

    def _keep(self, stored_at: datetime, subject: str, envelope: Envelope | None) -> None:
        position = 10 * (len(self.records) + 1)
        self.records.append(
            Record(
                position=position, stored_at=stored_at, subject=subject, raw=b"", envelope=envelope
            )
        )

    def trace(self) -> Trace:
        return trace_of(self.records)


def relay() -> History:
    made = History()
    submit = made.submit(0)
    handoff = made.write(submit, e.HandedOff(), 30, began=10, to="writer")
    made.write(handoff, e.Completed(), 80, began=41, pid=8)
    return made


def shown(spans: Sequence[Span]) -> list[tuple[int, str, Status]]:
    return [(s.depth, s.spec.name.replace("mesh.t.s0.", ""), s.status) for s in spans]


def test_a_relay_is_one_chain() -> None:
    trace = relay().trace()
    assert shown(trace.spans) == [
        (0, "send planner", Status.OK),
        (1, "process planner", Status.OK),
        (2, "invoke_agent planner", Status.OK),
        (2, "send writer", Status.OK),
        (3, "process writer", Status.OK),
        (4, "invoke_agent writer", Status.OK),
    ]
    assert (trace.trace_id, trace.task_id) == (TASK, TASK)
    assert (trace.state, trace.hops) == (State.COMPLETED, 1)
    assert trace.duration_s == 0.08
    assert [s.pid for s in trace.spans] == [9, 7, 7, 7, 8, 8]


def test_times_are_those_of_the_events() -> None:
    send, process, invoke, *_ = relay().trace().spans
    assert (send.duration_s, process.duration_s, invoke.duration_s) == (0.001, 0.02, 0.02)
    assert process.started_at == START + timedelta(milliseconds=10)
    assert process.waited_s == 0.009


def test_ids_are_those_that_live_spans_have() -> None:
    history = relay()
    submit = history.records[0]
    assert submit.envelope is not None
    live = [
        names.sending(submit.envelope, "s0"),
        names.processing(submit, "s0", attempt=1),
        names.invoking(submit, "planner", attempt=1, version="1.0.0"),
    ]
    assert [s.spec for s in history.trace().spans[:3]] == live


def test_a_callers_trace_is_the_tasks() -> None:
    history = History(CALLER)
    submit = history.submit(0)
    history.write(submit, e.Completed(), 20, began=10)
    trace = history.trace()
    assert trace.trace_id == "c" * 32
    assert trace.spans[0].spec.parent_span_id == "d" * 16
    assert {s.spec.trace_id for s in trace.spans} == {"c" * 32}


def test_a_failed_attempt_stands_beside_the_next() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.AttemptFailed(failure=BOOM), 20, began=10)
    history.write(submit, e.WorkStarted(), 120, began=120, attempt=2, pid=8)
    history.write(submit, e.Completed(), 150, began=120, attempt=2, pid=8)
    trace = history.trace()
    assert shown(trace.spans) == [
        (0, "send planner", Status.OK),
        (1, "process planner", Status.FAILED),
        (2, "invoke_agent planner", Status.FAILED),
        (1, "process planner", Status.OK),
        (2, "invoke_agent planner", Status.OK),
    ]
    first, second = trace.spans[1], trace.spans[3]
    assert (first.attempt, first.error, second.attempt) == (1, "python.ValueError", 2)
    assert [k.span_id for k in second.spec.links] == [first.spec.span_id]
    assert second.waited_s == 0.1


def test_a_claim_without_an_end_is_lost_once_another_has_the_turn() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.WorkStarted(), 260, began=10)
    assert history.trace().spans[1].status is Status.RUNNING
    history.write(submit, e.WorkStarted(), 900, began=890, attempt=2, pid=8)
    history.write(submit, e.Completed(), 950, began=890, attempt=2, pid=8)
    _, lost, _, done, _ = history.trace().spans
    assert (lost.status, lost.ended_at, lost.duration_s) == (Status.LOST, None, None)
    assert (done.status, done.waited_s) == (Status.OK, None)


def test_giving_up_on_a_lost_claim_is_no_run_of_its_own() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.WorkStarted(), 260, began=10)
    history.write(submit, e.DeadLettered(delivery_position=10), 900, began=890, pid=8)
    trace = history.trace()
    assert shown(trace.spans) == [
        (0, "send planner", Status.OK),
        (1, "process planner", Status.LOST),
        (2, "invoke_agent planner", Status.LOST),
    ]
    assert trace.state is State.FAILED


def test_a_last_attempt_that_failed_and_its_dead_letter_are_one_run() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.AttemptFailed(failure=BOOM), 20, began=10)
    history.write(submit, e.DeadLettered(delivery_position=10, failure=BOOM), 20, began=10)
    found = history.trace().spans[1]
    assert (found.status, found.error, found.duration_s) == (
        Status.FAILED,
        "python.ValueError",
        0.01,
    )


def test_a_run_given_back_is_released_and_the_next_one_keeps_its_own_children() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.WorkStarted(), 260, began=10)
    history.write(submit, e.WorkReleased(reason="stop"), 300, began=10)
    history.write(submit, e.WorkStarted(), 400, began=400, pid=8)
    history.write(submit, e.HandedOff(), 450, began=400, pid=8, to="writer")
    assert shown(history.trace().spans) == [
        (0, "send planner", Status.OK),
        (1, "process planner", Status.RELEASED),
        (2, "invoke_agent planner", Status.RELEASED),
        (1, "process planner", Status.OK),
        (2, "invoke_agent planner", Status.OK),
        (2, "send writer", Status.OK),
    ]


def test_a_cancel_is_a_send_of_its_own_and_ends_the_run() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.WorkStarted(), 260, began=10)
    history.write(submit, e.CancelRequested(), 300, to="planner")
    history.write(submit, e.Canceled(), 310, began=10)
    trace = history.trace()
    assert [(s.spec.name.split()[0], s.status) for s in trace.spans] == [
        ("send", Status.OK),
        ("process", Status.CANCELED),
        ("invoke_agent", Status.CANCELED),
        ("send", Status.OK),
    ]
    assert trace.state is State.CANCELED


def test_wound_up_before_a_handler_ran_shows_no_handler() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.CancelRequested(), 5, to="planner")
    history.write(submit, e.Canceled(), 20, began=10)
    assert not any(s.spec.name.startswith("invoke") for s in history.trace().spans)


def test_a_redriven_delivery_is_worked_on_below_its_own_send() -> None:
    history = History()
    submit = history.submit(0)
    dead = history.write(submit, e.DeadLettered(delivery_position=10, failure=BOOM), 20, began=10)
    redriven = history.write(dead, e.Redriven(), 500, to="planner")
    history.write(redriven, e.Completed(), 600, began=510)
    trace = history.trace()
    assert shown(trace.spans)[3:] == [
        (0, "send planner", Status.OK),
        (1, "process planner", Status.OK),
        (2, "invoke_agent planner", Status.OK),
    ]
    assert trace.state is State.COMPLETED


def test_what_nobody_can_read_is_a_failed_span() -> None:
    history = relay()
    history.unreadable(90)
    last = history.trace().spans[-1]
    assert (last.depth, last.status, last.error) == (0, Status.FAILED, "wire.envelope_invalid")
    only = History()
    only.unreadable(0)
    assert only.trace().state is State.UNKNOWN


def with_child() -> tuple[Trace, Envelope]:
    history = relay()
    submit = history.records[0].envelope
    assert submit is not None
    child = stamped(
        replace(
            submit.next(
                e.TaskSubmitted(),
                event_id="e" * 32,
                sender=Sender(agent="planner", instance="7-planner"),
                occurred_at=START + timedelta(milliseconds=29),
            ),
            task_id="b" * 32,
            parent_task_id=TASK,
            attempt=1,
            started_at=START + timedelta(milliseconds=10),
            to="reader",
        )
    )
    stored_at = child.occurred_at
    record = Record(
        position=15, stored_at=stored_at, subject=str(child.subject("s0")), raw=b"", envelope=child
    )
    return trace_of([*history.records, record]), submit


def test_a_childs_trace_hangs_below_the_run_that_made_it() -> None:
    trace, submit = with_child()
    [sent] = [s for s in trace.spans if s.spec.task_id == "b" * 32]
    assert sent.spec.parent_span_id == span_id(submit.event_id, PROCESS, 1)
    assert sent.depth == 2
    assert trace.task_id == TASK


def test_no_records_are_no_trace() -> None:
    trace = trace_of([])
    assert (trace.spans, trace.state, trace.duration_s) == ((), State.UNKNOWN, 0.0)
    assert trace_text(trace).startswith("trace ")


def test_clocks_that_disagree_give_no_negative_times() -> None:
    history = History()
    submit = history.submit(100)
    history.write(submit, e.Completed(), 20, began=50)
    assert all((s.duration_s or 0) >= 0 for s in history.trace().spans)
    assert all((s.waited_s or 0) >= 0 for s in history.trace().spans)


def test_a_very_long_relay_does_not_run_out_of_stack() -> None:
    history = History()
    cause = history.submit(0)
    for hop in range(600):
        cause = history.write(cause, e.HandedOff(), hop + 2, began=hop + 1, to="planner")
    trace = history.trace()
    assert trace.spans[-1].depth == 1200
    assert len(trace_text(trace).splitlines()) == 1802


@given(st.permutations(range(3)), st.integers(0, 3))
def test_order_of_records_does_not_matter_and_gaps_do_not_break_it(
    order: list[int], kept: int
) -> None:
    records = relay().records
    assert trace_of([records[n] for n in order]) == trace_of(records)
    trace_of([records[n] for n in order[:kept]])


def test_the_text_is_a_tree_with_who_and_how_long() -> None:
    assert trace_text(relay().trace()).splitlines() == [
        f"trace {TASK}  task {TASK}  COMPLETED  1 hand-off  80.0 ms",
        "send mesh.t.s0.planner          gateway 9   +0.0 ms   1.0 ms",
        "└ process mesh.t.s0.planner     planner 7  +10.0 ms  20.0 ms  waited 9.0 ms",
        "  ├ invoke_agent planner        planner 7  +10.0 ms  20.0 ms",
        "  └ send mesh.t.s0.writer       planner 7  +30.0 ms   1.0 ms",
        "    └ process mesh.t.s0.writer  writer 8   +41.0 ms  39.0 ms  waited 10.0 ms",
        "      └ invoke_agent writer     writer 8   +41.0 ms  39.0 ms",
    ]


def test_the_text_says_what_went_wrong() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.WorkStarted(), 260, began=10)
    history.write(submit, e.AttemptFailed(failure=BOOM), 70_000, began=5_000, attempt=2)
    text = trace_text(history.trace())
    assert "├ process mesh.t.s0.planner" in text
    assert "│ └ invoke_agent planner" in text
    assert "attempt 2, failed: python.ValueError" in text
    assert "lost" in text
    assert "1 min 5.0 s" in text


def test_the_text_names_a_child_where_it_begins() -> None:
    trace, _ = with_child()
    lines = trace_text(trace).splitlines()
    assert [line for line in lines if "b" * 32 in line] == [
        f"  ├ send mesh.t.s0.reader       planner 7  +29.0 ms   0.0 ms  task {'b' * 32}"
    ]


def test_a_resumed_turn_is_drawn_below_the_report_that_woke_it() -> None:
    history = History()
    submit = history.submit(0)
    history.write(submit, e.Suspended(waits=()), 20, began=10)
    report = history.write(submit, e.ChildFinished(), 50, to="planner")
    history.write(report, e.Resumed(wake_position=30), 60, began=55, pid=8)
    history.write(report, e.Completed(), 60, began=55, pid=8)
    assert shown(history.trace().spans) == [
        (0, "send planner", Status.OK),
        (1, "process planner", Status.OK),
        (2, "invoke_agent planner", Status.OK),
        (0, "send planner", Status.OK),
        (1, "process planner", Status.OK),
        (2, "invoke_agent planner", Status.OK),
    ]


def test_the_json_holds_everything() -> None:
    found = json.loads(json.dumps(trace_json(relay().trace())))
    assert (found["traceId"], found["state"], found["hops"]) == (TASK, "COMPLETED", 1)
    assert [s["depth"] for s in found["spans"]] == [0, 1, 2, 2, 3, 4]
    process = found["spans"][1]
    assert process["startedAt"] == "2026-11-22T12:00:00.010000+00:00"
    assert process["parentSpanId"] == found["spans"][0]["spanId"]
    assert (process["pid"], process["attempt"], process["waitedS"]) == (7, 1, 0.009)
    assert process["attributes"]["mesh.task.id"] == TASK
