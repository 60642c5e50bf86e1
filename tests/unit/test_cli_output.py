from __future__ import annotations

import json

import pytest
from google.protobuf.struct_pb2 import Struct, Value

from mesh.cli.output import emit, emit_line, whole
from mesh.cli.render import dead_letter_view, result_text
from mesh.cli.task_view import task_view
from mesh.wire.v1.api_pb2 import DeadLetterEntry, Task


def test_whole_numbers_of_a_result_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    task = Task()
    task.result.struct_value.update({"count": 5, "part": 0.5, "list": [1, -2], "text": "3.0"})
    emit(task)
    emit_line(task)
    for printed in capsys.readouterr().out.rstrip().rsplit("\n", maxsplit=1):
        result = json.loads(printed, parse_float=str)["result"]
        assert result == {"count": 5, "part": "0.5", "list": [1, -2], "text": "3.0"}


def test_sizes_in_a_struct_are_printed_without_a_fraction(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = Struct()
    data.update({"sizeBytes": 20})
    emit_line(data)
    assert capsys.readouterr().out == '{"sizeBytes": 20}\n'


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("5.0", "5"),
        ("-5.0", "-5"),
        ("0.5", "0.5"),
        ("9007199254740993.0", "9007199254740992"),
        ("1e+300", "1e+300"),
    ],
)
def test_a_number_is_spelled_as_canonical_json_does(text: str, spelled: str) -> None:
    assert json.dumps(whole(text)) == spelled


def test_what_has_no_order_is_shown_in_the_order_of_its_names() -> None:
    result = Value()
    result.struct_value.update(dict.fromkeys("hgfedcba", 1))
    assert list(json.loads(result_text(result))) == list("abcdefgh")


def test_figures_that_an_error_does_not_have_are_left_out() -> None:
    task, entry = Task(), DeadLetterEntry()
    for error in (task.error, entry.error):
        error.code = "input.invalid"
        error.details.update({"field": "", "limit": "3"})
    assert "field" not in task_view(task).plain
    assert "limit=3" in task_view(task).plain
    assert "field" not in dead_letter_view(entry).plain
    assert "limit = 3" in dead_letter_view(entry).plain
