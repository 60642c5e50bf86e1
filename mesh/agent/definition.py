"""What agent authors write: an agent, and a handler for each type it accepts."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mesh.agent.context import Context
from mesh.agent.outcome import Outcome
from mesh.agent.payload import (
    JSON,
    content_type_of,
    decode_value,
    json_schema_of,
    schema_of,
)
from mesh.agent.retry import Retry
from mesh.core.payload import Payload
from mesh.core.subject import RESERVED, check_name
from mesh.errors import HandlerInvalid, NameInvalid, PayloadInvalid
from mesh.registry.port import Card, InputType

__all__ = ["Agent", "Handler"]

V = TypeVar("V")
O = TypeVar("O", bound=Outcome)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Handler:
    """One accepted type and the function that takes it."""

    # Any: each handler has its own type of value.
    kind: Any
    run: Callable[[Context, Any], Awaitable[Outcome]]
    schema: str
    retry: Retry | None = None


class Agent:
    """An agent's declaration; it opens nothing.

    Args:
        name: `[a-z][a-z0-9-]{0,62}`, unique in the tenant; replicas share it.
        behaviour: Version of what the handlers do, shown with everything they write.
        description: A sentence for people, in the agent's card.

    Raises:
        NameInvalid: The name does not fit, or is reserved.
    """

    def __init__(self, name: str, *, behaviour: str = "0", description: str = "") -> None:
        if check_name(name) in RESERVED:
            raise NameInvalid(f"name `{name}` is reserved; choose another for the agent")
        self.name, self.behaviour, self.description = name, behaviour, description
        self._handlers: list[Handler] = []

    def on(
        self, kind: type[V], *, retry: Retry | None = None
    ) -> Callable[[Callable[[Context, V], Awaitable[O]]], Callable[[Context, V], Awaitable[O]]]:
        """Take inputs of a type: pydantic model, dataclass, protobuf message, str, bytes or JSON.

        The function is returned unchanged, so that a test can call it.

        Args:
            kind: The type.
            retry: How often it is tried; as the agent's limits say if None.

        Raises:
            HandlerInvalid: Its signature does not fit; the text shows one that does.
        """
        if inspect.isfunction(kind):
            raise HandlerInvalid(f"write `@{self.name}.on(Type)`: it takes the type of the input")

        def declare(
            run: Callable[[Context, V], Awaitable[O]],
        ) -> Callable[[Context, V], Awaitable[O]]:
            _check_signature(run, kind)
            schema = schema_of(kind)
            if any(h.kind is kind or (schema and h.schema == schema) for h in self._handlers):
                raise HandlerInvalid(f"agent `{self.name}` has a handler for `{_name(kind)}`")
            self._handlers.append(Handler(kind, run, schema, retry))
            return run

        return declare

    def card(self, *, concurrency: int) -> Card:
        """What to announce.

        Raises:
            HandlerInvalid: It has no handler, so it could take nothing.
        """
        if not self._handlers:
            raise HandlerInvalid(
                f"agent `{self.name}` has no handler; declare one with `.on(Type)`"
            )
        return Card(
            name=self.name,
            behaviour_version=self.behaviour,
            inputs=tuple(
                InputType(
                    schema=h.schema,
                    content_type=content_type_of(h.kind),
                    json_schema=json_schema_of(h.kind),
                )
                for h in self._handlers
            ),
            concurrency=concurrency,
            description=self.description,
        )

    def accept(self, payload: Payload) -> tuple[Handler, Any]:
        """The handler for a payload and the decoded value.

        A payload that names its schema goes to the handler of that name; otherwise the first
        handler, in order of declaration, whose type the bytes fit.

        Raises:
            PayloadInvalid: None fits.
        """
        named = [h for h in self._handlers if h.schema and h.schema == payload.schema]
        candidates = named or [h for h in self._handlers if _may_fit(h, payload)]
        if not candidates:
            accepted = ", ".join(f"`{_name(h.kind)}`" for h in self._handlers) or "nothing"
            raise PayloadInvalid(
                f"agent `{self.name}` accepts {accepted}, not"
                f" `{payload.schema or payload.content_type}`"
            )
        errors: list[PayloadInvalid] = []
        for handler in candidates:
            try:
                return handler, decode_value(payload, handler.kind)
            except PayloadInvalid as error:
                errors.append(error)
        raise errors[0]


def _may_fit(handler: Handler, payload: Payload) -> bool:
    """People submit JSON or text by hand, so JSON may be for any type that reads it."""
    media = payload.content_type.partition(";")[0].strip()
    own = content_type_of(handler.kind).partition(";")[0]
    return media in ("", own) or (media == JSON and handler.kind is not bytes)


def _check_signature(run: Callable[..., object], kind: Any) -> None:
    name = getattr(run, "__qualname__", repr(run))
    wrong = _signature_fault(run, kind)
    if wrong:
        right = (
            f"async def {getattr(run, '__name__', 'handle')}(ctx: Context, value: {_name(kind)})"
        )
        raise HandlerInvalid(f"`{name}` {wrong}; write: {right} -> Reply | Handoff | Fail | Reject")


def _signature_fault(run: Callable[..., object], kind: Any) -> str:
    """What is wrong with a handler's signature, "" if nothing."""
    if not inspect.iscoroutinefunction(run):
        return "is not an async function"
    parameters = list(inspect.signature(run).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(parameters) != 2 or len(positional) != 2:
        return f"does not take two positional parameters, it takes {len(parameters)}"
    try:
        hints = get_type_hints(run)
    except NameError:
        return ""  # annotations of names that exist for type checkers only
    declared = hints.get(positional[1].name, kind)
    if declared != kind and get_origin(declared) is not kind:  # `dict[str, Any]` is a dict
        return f"takes `{_name(declared)}`, but is declared for `{_name(kind)}`"
    returned = hints.get("return", Outcome)
    if not set(get_args(returned) or (returned,)) <= set(get_args(Outcome)):
        return f"returns `{_name(returned)}`, which is no outcome"
    return ""


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
