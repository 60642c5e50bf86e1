"""Errors to gRPC status, once for every service of the mesh.

Source: style guide, section 7; AIP-193.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

import mesh.errors as errors
from mesh.errors import MeshError
from mesh.wire.rpc import answer_of

__all__ = ["Reporter", "status_code"]

_logger = logging.getLogger(__name__)
_OURS = "/mesh.wire.v1."
"""Health and reflection report for themselves."""

_STATUS: dict[type[MeshError], grpc.StatusCode] = {
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TaskUnknown: grpc.StatusCode.NOT_FOUND,
    errors.AgentUnknown: grpc.StatusCode.NOT_FOUND,
    errors.KeyConflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.Contested: grpc.StatusCode.ABORTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.LogFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Fatal: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unsuccessful: grpc.StatusCode.FAILED_PRECONDITION,
    errors.HistoryCorrupt: grpc.StatusCode.DATA_LOSS,
    MeshError: grpc.StatusCode.INTERNAL,
}


def status_code(error: MeshError) -> grpc.StatusCode:
    """The status of an error: its own class's, or the nearest one's above it."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


class Reporter(grpc.aio.ServerInterceptor):
    """Answers every error of every call with a status; what is a bug, without its internals."""

    # Any: one interceptor stands before calls of all request and reply types.
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS):
            return handler
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            stream = _reporting_stream(handler.unary_stream, method)
            return grpc.unary_stream_rpc_method_handler(stream, **coders)
        unary = _reporting(handler.unary_unary, method)
        return grpc.unary_unary_rpc_method_handler(unary, **coders)


def _reporting(call: Callable[[Any, Any], Awaitable[Any]], method: str) -> Any:
    async def reporting(request: Any, context: Any) -> Any:
        async with _reported(context, method):
            return await call(request, context)

    return reporting


def _reporting_stream(call: Callable[[Any, Any], AsyncIterator[Any]], method: str) -> Any:
    async def reporting(request: Any, context: Any) -> AsyncGenerator[Any]:
        async with _reported(context, method):
            replies: Any = call(request, context)
            async with aclosing(replies):
                async for reply in replies:
                    yield reply

    return reporting


@asynccontextmanager
async def _reported(context: Any, method: str) -> AsyncGenerator[None]:
    try:
        yield
    except MeshError as error:
        code = status_code(error)
        text, details = answer_of(error, code.value[0])
        await context.abort(code, text, details)
    except Exception:
        _logger.exception("%s: internal error", method)
        text = "internal error; the log of the service has its traceback"
        await context.abort(grpc.StatusCode.INTERNAL, text)
