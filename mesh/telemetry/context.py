"""W3C trace context in envelopes, and ids that anybody can compute from an event.

A span's id is a hash of an event's id, the span's role and the attempt, so that a trace drawn from
the log is the trace that was sent while it happened.

Source: design, section 7; W3C Trace Context.
"""

import re
from dataclasses import dataclass, replace
from hashlib import sha256

from mesh.core.envelope import Envelope, TraceContext

__all__ = ["INVOKE", "PROCESS", "SEND", "SETTLE", "TraceParent", "context_of", "span_id", "stamped"]

SEND, PROCESS, INVOKE, SETTLE = "send", "process", "invoke", "settle"
"""The roles a span can have to an event."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_OURS = "mesh="
"""Key of our own entry in `tracestate`: the caller's span, which the stamp takes the place of."""
_STATE_ENTRY = re.compile(r"[a-z0-9][a-z0-9_*/@-]*=[ -~]+")
_STATE_ENTRIES, _STATE_CHARS = 32, 512
_BAGGAGE = re.compile(r"[ -~]{0,2048}")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """One `traceparent`: which trace, which span, and whether it is sampled."""

    trace_id: str
    span_id: str
    sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    @classmethod
    def parse(cls, text: str) -> "TraceParent | None":
        """Read a `traceparent`; None if it is no valid one, which then counts as not given."""
        found = _TRACEPARENT.fullmatch(text)
        if not found or not int(found[1], 16) or not int(found[2], 16):
            return None
        if text.startswith("00") and found[4]:
            return None
        return cls(found[1], found[2], bool(int(found[3], 16) & _SAMPLED))


def span_id(event_id: str, role: str, attempt: int = 0) -> str:
    """Id of the span that plays a role to an event: 16 lower-case hex digits, not all zero."""
    found = sha256(f"{event_id}\n{role}\n{attempt}".encode()).hexdigest()[:16]
    return found if int(found, 16) else "1".zfill(16)


def stamped(envelope: Envelope, caller: TraceContext | None = None) -> Envelope:
    """The envelope with the trace context of its own `send` span.

    Pure, and stamping twice changes nothing.

    Args:
        envelope: An event about to be appended; the trace that its context names goes on.
        caller: Who asks for it, if the request came with a trace context: the trace is the
            caller's. A caller's context may as well stand in the envelope already.
    """
    if caller and TraceParent.parse(caller.traceparent):
        envelope = replace(envelope, trace=replace(caller, mode=caller.mode or envelope.trace.mode))
    known = TraceParent.parse(envelope.trace.traceparent)
    own, parent = context_of(envelope)
    if known == own:
        return envelope
    remembered = "" if _computed(envelope) else parent
    trace = replace(
        envelope.trace,
        traceparent=str(own),
        tracestate=_state(envelope.trace.tracestate, remembered),
        # What a caller sent becomes a header: neither a line break nor a book may come with it.
        baggage=envelope.trace.baggage if _BAGGAGE.fullmatch(envelope.trace.baggage) else "",
    )
    return replace(envelope, trace=trace)


def context_of(envelope: Envelope) -> tuple[TraceParent, str]:
    """The context that an event was sent in, and its `send` span's parent ("" at a root).

    Also of an event that nobody stamped: it then belongs to the trace that its context names, or
    to that of its root task.
    """
    known = TraceParent.parse(envelope.trace.traceparent)
    own = TraceParent(
        known.trace_id if known else envelope.root_task_id,
        span_id(envelope.event_id, SEND),
        known.sampled if known else True,
    )
    if _computed(envelope):
        return own, span_id(envelope.causation_id, PROCESS, envelope.attempt)
    if known and known.span_id != own.span_id:
        return own, "" if _inherited(envelope, known) else known.span_id
    return own, _caller_in(envelope.trace.tracestate)


def _computed(envelope: Envelope) -> bool:
    """Whether a run of a handler wrote it: its parent is then the run's span."""
    return bool(envelope.attempt and envelope.causation_id)


def _inherited(envelope: Envelope, known: TraceParent) -> bool:
    """Whether the context is the one of the event that caused this one, not a caller's."""
    return known.span_id == span_id(envelope.causation_id, SEND)


def _state(tracestate: str, caller: str) -> str:
    entries = [f"{_OURS}{caller}"] if caller else []
    for entry in tracestate.split(","):
        found = entry.strip(" \t")
        if _STATE_ENTRY.fullmatch(found) and not found.startswith(_OURS):
            entries.append(found)
    del entries[_STATE_ENTRIES:]
    while len(",".join(entries)) > _STATE_CHARS:
        entries.pop()
    return ",".join(entries)


def _caller_in(tracestate: str) -> str:
    for entry in tracestate.split(","):
        if entry.strip().startswith(_OURS):
            found = entry.strip().removeprefix(_OURS)
            return found if re.fullmatch(r"[0-9a-f]{16}", found) else ""
    return ""
