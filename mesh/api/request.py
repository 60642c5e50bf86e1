"""What requests ask for, as core values.

A page token is the position (or order) that the next page begins at, as text: it stays valid for
ever and on any replica.
"""

from typing import Any

import grpc

from mesh.api.view import payload_of, time_of
from mesh.core.envelope import TraceContext
from mesh.core.point import Point
from mesh.errors import Invalid
from mesh.gateway.submission import Submission
from mesh.telemetry.context import TraceParent
from mesh.wire.v1 import gateway_pb2 as pb

__all__ = ["CallContext", "page_size", "page_token", "point_of", "submission_of", "trace_of"]

# Any: the context of a call carries the types of its request and reply.
CallContext = grpc.aio.ServicerContext[Any, Any]
_PAGE, _PAGE_LIMIT = 100, 1000
_KEY_CHARS = 512


def submission_of(request: pb.SubmitTaskRequest, trace: TraceContext) -> Submission:
    """The submit that a request asks for."""
    if len(request.idempotency_key) > _KEY_CHARS:
        raise Invalid(f"idempotency_key is over {_KEY_CHARS} characters")
    return Submission(
        agent=request.agent,
        input=payload_of(request.input) if request.HasField("input") else None,
        key=request.idempotency_key,
        request_id=request.request_id,
        deadline=time_of(request, "deadline"),
        labels=dict(request.labels),
        objective=request.objective,
        priority=request.priority,
        max_hops=request.max_hops,
        correlation_id=request.correlation_id,
        budget=dict(request.budget),
        trace=trace,
    )


def point_of(request: pb.GetStateRequest) -> Point:
    """The place in a history that a request asks for."""
    match request.WhichOneof("at"):
        case "version":
            return Point(version=request.version)
        case "position":
            return Point(position=request.position)
        case "time":
            return Point(time=time_of(request, "time"))
        case _:
            return Point()


def trace_of(context: CallContext) -> TraceContext:
    """The W3C trace context of a call; empty when there is none, or a malformed one.

    Source: W3C Trace Context, section 3.2: a malformed header is ignored.
    """
    sent = {
        key: value
        for key, value in context.invocation_metadata() or ()
        if isinstance(value, str) and key in ("traceparent", "tracestate", "baggage")
    }
    if TraceParent.parse(sent.get("traceparent", "")) is None:
        return TraceContext(baggage=sent.get("baggage", ""))
    return TraceContext(
        traceparent=sent["traceparent"],
        tracestate=sent.get("tracestate", ""),
        baggage=sent.get("baggage", ""),
    )


def page_size(asked: int) -> int:
    """How many a page holds: 100 unless asked, at most 1000."""
    return min(asked or _PAGE, _PAGE_LIMIT)


def page_token(token: str) -> int:
    """The number that a page token holds, 0 for none.

    Raises:
        Invalid: It is no token of ours.
    """
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 20):
        raise Invalid(f"page_token `{token}` was not given by a list call")
    return int(token)
