"""Whether an answer is what its question asks for.

The schema comes from an agent and the answer from a person, and both meet in the process that is
everybody's front door. So a check has an end: no schema is fetched from anywhere, patterns are
matched by an engine that cannot backtrack, and the work is counted.

Source: JSON Schema 2020-12, https://json-schema.org/draft/2020-12.
"""
# Any throughout: schemas and JSON values have no closer type, and jsonschema's stubs say little.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any

from jsonschema import Draft202012Validator, FormatChecker, SchemaError, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from pydantic import Field, TypeAdapter
from pydantic import ValidationError as Mismatch
from pydantic_core import SchemaError as PatternError
from referencing import Registry
from referencing.exceptions import Unresolvable

from mesh.core.leg import Question
from mesh.core.payload import Payload
from mesh.errors import AnswerInvalid, PayloadTooLarge, Refused

__all__ = ["ANSWER_BYTES", "check_answer"]

ANSWER_BYTES = 64 * 1024
"""Most bytes of an answer that is checked against a schema, and of the schema."""
_STEPS = 50_000
"""Most keywords that one check applies; some tenths of a second."""
_UNSUPPORTED = frozenset({"patternProperties", "unevaluatedItems", "unevaluatedProperties"})
"""What the library works out by itself, uncounted, and with Python's patterns."""
_SAID_CHARS = 300


def check_answer(question: Question, answer: Payload) -> None:
    """Check an answer against the JSON Schema of its question; without one, anything will do.

    Blocks for some tenths of a second at most.

    Raises:
        AnswerInvalid: It does not fit; `field` is the path of the first place, parts with dots
            between.
        PayloadTooLarge: The question has a schema, and the answer is over `ANSWER_BYTES`.
        Refused: The schema itself is of no use, so no answer can be taken.
    """
    if not question.json_schema:
        return
    if len(answer.data) > ANSWER_BYTES:
        raise PayloadTooLarge(size_bytes=len(answer.data), limit_bytes=ANSWER_BYTES)
    value = _value(answer)
    try:
        error = best_match(_errors(question.json_schema, value))
    except (ValueError, SchemaError, Unresolvable, RecursionError) as e:
        said = e.message if isinstance(e, SchemaError) else str(e)
        raise Refused(
            f"question `{question.id}` has a JSON Schema that cannot be used: {_short(said)};"
            " its agent must ask again with a better one"
        ) from e
    if error is None:
        return
    field = ".".join(str(part) for part in error.absolute_path)
    where = f"`{field}`: " if field else ""
    raise AnswerInvalid(f"{where}{_short(error.message)}; the question stays open", field=field)


def _value(answer: Payload) -> Any:
    if answer.content_type.partition(";")[0].strip() != "application/json":
        raise AnswerInvalid(
            f"the question takes JSON (`application/json`), not `{answer.content_type}`"
        )
    try:
        return json.loads(answer.data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise AnswerInvalid(f"no valid JSON: {e}") from e


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _errors(schema_text: str, value: Any) -> Iterator[ValidationError]:
    if len(schema_text) > ANSWER_BYTES:
        raise ValueError(f"it is over {ANSWER_BYTES} characters")
    schema = json.loads(schema_text)
    # Without formats: they would have Python judge patterns that it does not match in the end.
    Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    # An empty registry fetches nothing; what `$ref` finds is in the schema itself.
    validator = _bounded()(schema, registry=Registry(), format_checker=_FORMATS)
    errors: Iterator[ValidationError] = validator.iter_errors(value)
    return errors


def _bounded() -> Any:
    """A validator class for one check, which counts what it does."""
    left = _STEPS

    def counted(keyword: str, apply: Callable[..., Any]) -> Callable[..., Any]:
        def application(validator: Any, wanted: Any, value: Any, schema: Any) -> Any:
            nonlocal left
            unsupported = _UNSUPPORTED & schema.keys()
            if unsupported:
                raise ValueError(f"`{min(unsupported)}` is not supported")
            # Unsortable members are compared each with each.
            pairs = keyword == "uniqueItems" and isinstance(value, list)
            left -= len(value) ** 2 if pairs else 1
            if left < 0:
                raise ValueError(f"it takes more than {_STEPS} steps to check this answer")
            return apply(validator, wanted, value, schema)

        return application

    keywords = {**Draft202012Validator.VALIDATORS, "pattern": _pattern}
    counting = {name: counted(name, apply) for name, apply in keywords.items()}
    validator: Any = extend(Draft202012Validator, counting)  # type: ignore[no-untyped-call]
    return validator


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    if not isinstance(value, str):
        return
    try:
        # Pydantic's engine takes linear time, where Python's may take for ever and hold all others.
        TypeAdapter(Annotated[str, Field(pattern=pattern)]).validate_python(value)
    except PatternError as e:
        raise ValueError(f"pattern `{pattern}` is not one without look-around") from e
    except Mismatch:
        yield ValidationError(f"{value!r} does not match `{pattern}`")


def _is_instant(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value))


def _formats() -> FormatChecker:
    checker = FormatChecker(formats=("date", "email", "ipv4", "ipv6", "uuid"))
    # The library checks these with a package more.
    checker.checks("date-time", raises=ValueError)(_is_instant)
    return checker


_FORMATS = _formats()


def _short(text: str) -> str:
    """A text that is no longer than a few lines; what a long value is like stands at both ends."""
    if len(text) <= _SAID_CHARS:
        return text
    half = _SAID_CHARS // 2
    return f"{text[:half]} … {text[-half:]}"
