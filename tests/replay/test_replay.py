"""Histories that older versions recorded: every later one must read and fold them the same.

A file is written once, by `record.py`, and never changed; what it must fold to stands here.
"""

import base64
import json
from datetime import datetime
from pathlib import Path

import pytest

from mesh.core.envelope import Record
from mesh.core.fold import fold
from mesh.core.subject import Subject
from mesh.core.task import State
from mesh.replay.trace import trace_of
from mesh.wire.codec import encode, read_record

HERE = Path(__file__).parent
VERSIONS = sorted(path.stem for path in HERE.glob("v*.ndjson"))
V1 = [
    ("greeter", State.COMPLETED, "shouter", 4, ""),
    ("greeter", State.FAILED, "greeter", 2, "agent.failed"),
    ("greeter", State.FAILED, "greeter", 22, "python.ValueError"),
    ("greeter", State.CANCELED, "greeter", 4, ""),
    ("greeter", State.REJECTED, "greeter", 2, "agent.payload_invalid"),
    ("planner", State.COMPLETED, "critic", 8, ""),
]


def histories(version: str) -> list[list[Record]]:
    """The tasks of a recording in the order of their submits, each with its records."""
    tasks: dict[str, list[Record]] = {}
    for line in (HERE / f"{version}.ndjson").read_text(encoding="utf-8").splitlines():
        kept = json.loads(line)
        record = read_record(
            kept["position"],
            datetime.fromisoformat(kept["stored_at"]),
            kept["subject"],
            base64.b64decode(kept["raw"]),
        )
        tasks.setdefault(Subject.parse(record.subject).task_id, []).append(record)
    return list(tasks.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_record_is_read_and_written_again_to_the_byte(version: str) -> None:
    for history in histories(version):
        for record in history:
            assert record.envelope is not None, record.fault
            assert encode(record.envelope) == record.raw


@pytest.mark.parametrize("version", VERSIONS)
def test_every_task_is_drawn_as_one_trace_with_nothing_open(version: str) -> None:
    for history in histories(version):
        trace = trace_of(history)
        assert trace.task_id == fold(history).task_id
        assert len(trace.spans) >= 2


def test_version_1_folds_to_the_states_it_was_recorded_with() -> None:
    folded = [fold(history) for history in histories("v1")]
    found = [
        (
            task.handoffs[0].source if task.handoffs else task.owner,
            task.state,
            task.owner,
            task.version,
            task.failure.code if task.failure else "",
        )
        for task in folded
    ]
    assert found == V1
    assert [len(task.handoffs) for task in folded] == [1, 0, 0, 0, 0, 3]
    assert folded[2].dead_letter is not None
    assert folded[3].cancel_reason == "enough"
    assert [d.id for d in folded[0].decisions] == ["tone"]
