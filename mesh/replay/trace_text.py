"""A trace as text for people and as JSON for programs."""

from datetime import UTC

from mesh.replay.trace import Span, Status, Trace

__all__ = ["trace_json", "trace_text"]


def trace_text(trace: Trace) -> str:
    """A trace as a tree: what, who, when since the trace began, how long; no newline at the end.

    Where a child begins, its task id is named.
    """
    noun = "hand-off" if trace.hops == 1 else "hand-offs"
    head = (
        f"trace {trace.trace_id}  task {trace.task_id}  {trace.state}"
        f"  {trace.hops} {noun}  {_time(trace.duration_s)}"
    )
    if not trace.spans:
        return head
    begun = min(span.started_at for span in trace.spans)
    rows = [
        (
            f"{branch}{span.spec.name}",
            f"{span.agent} {span.pid or '-'}",
            f"+{_time((span.started_at - begun).total_seconds())}",
            _took(span),
            note,
        )
        for branch, span, note in zip(
            _branches(trace.spans), trace.spans, _notes(trace), strict=True
        )
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{what:<{widths[0]}}  {who:<{widths[1]}}  {at:>{widths[2]}}  {took:>{widths[3]}}  {note}"
        for what, who, at, took, note in rows
    ]
    return "\n".join([head, *(line.rstrip() for line in lines)])


def trace_json(trace: Trace) -> dict[str, object]:
    """A trace as values that JSON has; names in camel case, times in RFC 3339, UTC."""
    return {
        "traceId": trace.trace_id,
        "taskId": trace.task_id,
        "state": trace.state.value,
        "hops": trace.hops,
        "durationS": trace.duration_s,
        "spans": [_span_json(span) for span in trace.spans],
    }


def _span_json(span: Span) -> dict[str, object]:
    return {
        "name": span.spec.name,
        "kind": span.spec.kind.value,
        "traceId": span.spec.trace_id,
        "spanId": span.spec.span_id,
        "parentSpanId": span.spec.parent_span_id,
        "taskId": span.spec.task_id,
        "depth": span.depth,
        "agent": span.agent,
        "instance": span.instance,
        "pid": span.pid,
        "attempt": span.attempt,
        "status": span.status.value,
        "error": span.error,
        "startedAt": span.started_at.astimezone(UTC).isoformat(),
        "endedAt": span.ended_at.astimezone(UTC).isoformat() if span.ended_at else None,
        "durationS": span.duration_s,
        "waitedS": span.waited_s,
        "attributes": dict(span.spec.attributes),
        "links": [{"traceId": k.trace_id, "spanId": k.span_id} for k in span.spec.links],
    }


def _branches(spans: tuple[Span, ...]) -> list[str]:
    """The lines before each name, found from the last span up: who has a later sibling."""
    found: list[str] = []
    open_below: set[int] = set()
    for span in reversed(spans):
        lines = ["│ " if depth in open_below else "  " for depth in range(1, span.depth)]
        if span.depth:
            lines.append("├ " if span.depth in open_below else "└ ")
        found.append("".join(lines))
        open_below = {depth for depth in open_below if depth <= span.depth} | {span.depth}
    return found[::-1]


def _took(span: Span) -> str:
    if span.duration_s is not None:
        return _time(span.duration_s)
    return "…" if span.status is Status.RUNNING else "?"


def _notes(trace: Trace) -> list[str]:
    """What is said of each span beside its times."""
    known = {trace.task_id}
    notes: list[str] = []
    for span in trace.spans:
        notes.append(_note(span, child=span.spec.task_id not in known))
        known.add(span.spec.task_id)
    return notes


def _note(span: Span, *, child: bool) -> str:
    notes = [f"task {span.spec.task_id}"] if child else []
    if span.attempt > 1:
        notes.append(f"attempt {span.attempt}")
    if span.status is not Status.OK:
        notes.append(f"{span.status}: {span.error}" if span.error else span.status.value)
    if span.waited_s is not None:
        notes.append(f"waited {_time(span.waited_s)}")
    return ", ".join(notes)


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.1f} s" if minutes else f"{rest:.2f} s"
