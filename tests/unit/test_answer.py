"""Answers against the JSON Schema of their question, and schemas that mean no good."""

import json
import time
from datetime import datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from mesh.core.leg import Question
from mesh.core.payload import Payload
from mesh.errors import AnswerInvalid, PayloadTooLarge, Refused
from mesh.gateway.answer import ANSWER_BYTES, check_answer

JSON = "application/json"


class Part(BaseModel):
    name: Annotated[str, Field(pattern=r"^\p{L}+$")]
    count: int = 1


class Order(BaseModel):
    approved: bool
    parts: list[Part] = []
    until: datetime | None = None


def check(schema: Any, answer: Any, content_type: str = JSON) -> None:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    check_answer(Question(id="q", json_schema=text), Payload(content_type=content_type, data=data))


def test_an_answer_that_fits_a_model_is_taken() -> None:
    schema = Order.model_json_schema()
    check(schema, {"approved": True})
    check(schema, {"approved": False, "parts": [{"name": "Öse"}], "until": "2026-05-01T10:00:00Z"})


@pytest.mark.parametrize(
    ("answer", "field", "says"),
    [
        ({}, "", "'approved' is a required property"),
        ({"approved": "yes"}, "approved", "`approved`: 'yes' is not of type 'boolean'"),
        ({"approved": True, "parts": [{"name": "a"}, {"name": "1"}]}, "parts.1.name", "match"),
        ({"approved": True, "parts": [{"name": "a", "count": 1.5}]}, "parts.0.count", "integer"),
        ({"approved": True, "until": "soon"}, "until", "'soon' is not a 'date-time'"),
        (b"{", "", "no valid JSON"),
        (b"NaN", "", "NaN is not JSON"),
        (b"[" * 30_000, "", "no valid JSON"),
    ],
)
def test_an_answer_that_does_not_fit_names_the_place(answer: Any, field: str, says: str) -> None:
    with pytest.raises(AnswerInvalid) as refused:
        check(Order.model_json_schema(), answer)
    assert refused.value.field == field
    assert says in str(refused.value)


def test_a_question_without_a_schema_takes_anything() -> None:
    check("", b"\xff", content_type="image/png")
    check(True, "any")


def test_a_question_with_a_schema_takes_json_only() -> None:
    with pytest.raises(AnswerInvalid, match="takes JSON"):
        check({"type": "string"}, b"yes", content_type="text/plain")
    with pytest.raises(PayloadTooLarge):
        check({"type": "string"}, b'"%s"' % (b"x" * ANSWER_BYTES))


def test_a_long_value_is_shown_by_its_ends() -> None:
    with pytest.raises(AnswerInvalid) as refused:
        check({"type": "integer"}, "x" * 20_000)
    assert len(str(refused.value)) < 400
    assert str(refused.value).endswith("is not of type 'integer'; the question stays open")


def doubling(levels: int) -> dict[str, Any]:
    """A small schema that asks the last question two to the `levels` times."""
    twice = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/l0", "$defs": {**twice, f"l{levels}": {"type": "integer"}}}


UNUSABLE: list[tuple[Any, Any, str]] = [
    ("{", 1, "double quotes"),
    ("[" * 60_000, 1, "recursion"),
    ({"type": "strin"}, 1, "'strin' is not valid"),
    ({"$ref": "http://127.0.0.1:1/schema.json"}, 1, "Unresolvable"),
    ({"$ref": "#/$defs/none"}, 1, "does not exist"),
    ({"$ref": "#"}, 1, "recursion"),
    (doubling(40), 1, "50000 steps"),
    ({"items": {"uniqueItems": True}}, [[{"a": n} for n in range(400)]], "50000 steps"),
    ({"pattern": "(?=a)b"}, "ab", "look-around"),
    (
        {"additionalProperties": False, "patternProperties": {"(a+)+$": {}}},
        {"a" * 40 + "b": 1},
        "not supported",
    ),
    ({"unevaluatedProperties": False, **doubling(40)}, {"a": 1}, "not supported"),
    ("1" * (ANSWER_BYTES + 1), 1, "65536 characters"),
]


@pytest.mark.parametrize(("schema", "answer", "says"), UNUSABLE)
def test_a_schema_that_cannot_be_used_is_refused_in_time(
    schema: Any, answer: Any, says: str
) -> None:
    began = time.process_time()
    with pytest.raises(Refused, match="question `q` has a JSON Schema that cannot be used") as e:
        check(schema, answer)
    assert says in str(e.value)
    assert time.process_time() - began < 5


def test_a_pattern_takes_no_time_to_fail() -> None:
    began = time.process_time()
    with pytest.raises(AnswerInvalid, match="does not match"):
        check({"pattern": "^(a+)+$"}, "a" * 60_000 + "b")
    assert time.process_time() - began < 5


def test_formats_are_checked_and_unknown_ones_are_not() -> None:
    with pytest.raises(AnswerInvalid):
        check({"format": "email"}, "ada")
    check({"format": "email"}, 3)
    check({"format": "date-time"}, 3)
    check({"format": "colour-of-the-sky"}, "blue")
