from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from pydantic import BaseModel

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Reply
from mesh.agent.payload import BYTES, JSON, TEXT, decode_value, encode_value
from mesh.core.payload import Payload
from mesh.errors import HandlerInvalid, NameInvalid, PayloadInvalid


class Ticket(BaseModel):
    title: str
    amount: int = 0


@dataclass
class Point:
    x: int
    y: int


async def good(ctx: Context, ticket: Ticket) -> Reply:
    return Reply(ticket)


@pytest.mark.parametrize(
    "value",
    [
        Ticket(title="a", amount=3),
        Point(1, 2),
        "text",
        b"\x00\xff",
        Duration(seconds=4),
        {"a": [1, None, "x"]},
        [1, 2],
    ],
)
def test_a_value_survives_its_payload(value: object) -> None:
    assert decode_value(encode_value(value), type(value)) == value


def test_a_schema_is_a_stable_name_never_a_path() -> None:
    assert encode_value(Ticket(title="a")).schema == "ticket.v1"
    assert encode_value(Duration()).schema == "google.protobuf.Duration"
    assert encode_value("x").schema == ""


def test_the_handler_comes_back_unchanged() -> None:
    assert Agent("triage").on(Ticket)(good) is good


@pytest.mark.parametrize("name", ["log", "gateway", "ledger", "Upper", "", "a.b", "x" * 64])
def test_a_name_that_cannot_stand_in_a_subject_is_refused(name: str) -> None:
    with pytest.raises(NameInvalid):
        Agent(name)


def not_async(ctx: Context, ticket: Ticket) -> Reply:
    return Reply(ticket)


async def one_parameter(ticket: Ticket) -> Reply:
    return Reply(ticket)


async def wrong_type(ctx: Context, ticket: Point) -> Reply:
    return Reply(ticket)


async def keyword(ctx: Context, *, ticket: Ticket) -> Reply:
    return Reply(ticket)


async def wrong_return(ctx: Context, ticket: Ticket) -> str:
    return ticket.title


@pytest.mark.parametrize("handler", [not_async, one_parameter, wrong_type, keyword, wrong_return])
def test_a_wrong_signature_fails_at_declaration_and_shows_the_right_one(handler: Any) -> None:
    with pytest.raises(HandlerInvalid) as refused:
        Agent("triage").on(Ticket)(handler)
    right = f"async def {handler.__name__}(ctx: Context, value: Ticket) -> Reply | Handoff"
    assert right in str(refused.value)


def test_two_handlers_for_one_type_are_refused() -> None:
    agent = Agent("triage")
    agent.on(Ticket)(good)
    with pytest.raises(HandlerInvalid):
        agent.on(Ticket)(good)


def both() -> Agent:
    agent = Agent("triage")
    agent.on(Ticket)(good)

    @agent.on(Point)
    async def point(ctx: Context, point: Point) -> Reply:
        return Reply(point)

    @agent.on(str)
    async def text(ctx: Context, text: str) -> Reply:
        return Reply(text)

    return agent


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (encode_value(Point(1, 2)), Point(1, 2)),
        (Payload(content_type=JSON, data=b'{"title": "a"}'), Ticket(title="a")),
        (Payload(content_type=JSON, data=b'{"x": 1, "y": 2}'), Point(1, 2)),
        (Payload(content_type=TEXT, data=b"hello"), "hello"),
        (Payload(content_type=JSON, data=b'"hello"'), "hello"),
        (
            Payload(content_type=JSON, schema="from.elsewhere.v1", data=b'{"x":1,"y":2}'),
            Point(1, 2),
        ),
    ],
)
def test_a_payload_finds_its_handler(payload: Payload, value: object) -> None:
    assert both().accept(payload)[1] == value


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (Payload(content_type=JSON, schema="ticket.v1", data=b'{"amount": 1}'), "`title`"),
        (Payload(content_type=JSON, data=b'{"title": 1}'), "`title`"),
        (Payload(content_type=JSON, data=b"{"), "Invalid JSON"),
        (Payload(content_type=BYTES, data=b"x"), "accepts `Ticket`, `Point`, `str`"),
        (Payload(content_type=TEXT, data=b"\xff"), "not UTF-8"),
    ],
)
def test_a_payload_that_fits_nothing_says_what_is_wrong(payload: Payload, says: str) -> None:
    with pytest.raises(PayloadInvalid, match=says):
        both().accept(payload)


def test_the_card_shows_the_types_as_json_schema() -> None:
    card = both().card(concurrency=4)
    assert [i.schema for i in card.inputs] == ["ticket.v1", "point.v1", ""]
    assert '"title"' in card.inputs[0].json_schema
    assert (card.inputs[2].content_type, card.concurrency) == (TEXT, 4)


def test_a_decorator_without_its_type_is_refused() -> None:
    with pytest.raises(HandlerInvalid, match=r"@triage\.on\(Type\)"):
        Agent("triage").on(good)  # type: ignore[arg-type]  # the mistake


def test_an_agent_without_a_handler_is_refused_before_it_is_announced() -> None:
    with pytest.raises(HandlerInvalid, match="has no handler"):
        Agent("triage").card(concurrency=1)
