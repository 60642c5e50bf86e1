from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mesh.cli.failure import code_of
from mesh.cli.option import budget, duration, instant, labels
from mesh.cli.payload import given_json, given_payload
from mesh.errors import (
    AgentUnknown,
    AnswerInvalid,
    ConfigError,
    Fenced,
    HistoryCorrupt,
    Invalid,
    LogFull,
    MeshError,
    NotParked,
    PayloadTooLarge,
    QuestionClosed,
    Refused,
    StoreLocked,
    TaskFailed,
    Unavailable,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("x"), 2),
        (AnswerInvalid("x", field="y"), 4),
        (QuestionClosed("x", request_id="y", reason="z"), 4),
        (NotParked("x", state="WORKING"), 4),
        (PayloadTooLarge(size_bytes=2, limit_bytes=1), 2),
        (ConfigError("x"), 2),
        (Unavailable("x"), 3),
        (LogFull("x"), 4),
        (Refused("x"), 4),
        (AgentUnknown("x"), 4),
        (StoreLocked("x"), 4),
        (Fenced("x", expected=1), 4),
        (TaskFailed("x", state="FAILED"), 1),
        (HistoryCorrupt("x"), 1),
        (MeshError("x"), 1),
    ],
)
def test_every_error_has_its_exit_code(error: MeshError, code: int) -> None:
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("1d", 86400)]
)
def test_lengths_are_read(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "15", "m", "-1s", "1w", "soon"])
def test_what_is_no_length_is_none(text: str) -> None:
    assert duration(text) is None


def test_instants_without_a_zone_are_utc() -> None:
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert instant("2026-01-31T12:00:00", "--time", direction=-1) == noon
    assert instant("2026-01-31T13:00:00+01:00", "--time", direction=-1) == noon


def test_a_length_points_back_or_ahead() -> None:
    past = instant("1h", "--since", direction=-1)
    future = instant("1h", "--deadline", direction=1)
    assert timedelta(hours=1, minutes=59) < future - past < timedelta(hours=2, minutes=1)


def test_labels_are_pairs() -> None:
    assert labels(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(Invalid, match="`d` is not KEY=VALUE"):
        labels(["d"])


def test_input_is_json_or_text_but_not_both() -> None:
    assert given_payload('{"a": 1}', None) == ("application/json", b'{"a": 1}')
    assert given_payload(None, "hey") == ("text/plain; charset=utf-8", b"hey")
    for both in ((None, None), ("1", "1")):
        with pytest.raises(Invalid, match="either --input"):
            given_payload(*both)


def test_budgets_are_counters_with_a_limit() -> None:
    assert budget(["tokens=1000", "calls=0"]) == {"tokens": 1000, "calls": 0}
    assert budget([f"a={2**63 - 1}"]) == {"a": 2**63 - 1}
    huge = "a=" + "9" * 9999
    for wrong in ("a", "a=", "a=-1", "a=1.5", "a=1e3", "a= 1", "a=\u0663", f"a={2**63}", huge):
        with pytest.raises(Invalid, match="not COUNTER=LIMIT"):
            budget([wrong])
    with pytest.raises(Invalid, match="`a` stands twice"):
        budget(["a=1", "a=2"])


def test_json_that_is_nested_too_deep_is_a_mistake_and_no_crash() -> None:
    with pytest.raises(Invalid, match="no valid JSON"):
        given_json("[" * 100_000)
