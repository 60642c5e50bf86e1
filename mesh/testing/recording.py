"""Histories in files, one record a line, to be kept beside the tests of an agent.

Source: `tests/replay`, whose recordings are read by every later version.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from mesh.core.envelope import Record
from mesh.core.subject import Subject
from mesh.errors import EnvelopeInvalid, NameInvalid
from mesh.wire.codec import decode, read_record

__all__ = ["load_histories", "save_histories"]


def load_histories(path: Path | str) -> list[tuple[Record, ...]]:
    """Read NDJSON of records, or of events as `Mesh.events(with_raw=True)` has them.

    Each line has `position`, `stored_at`, `subject` and `raw`, the envelope's bytes in base64; of
    an event in ProtoJSON `shard` stands for the subject.

    Returns:
        One history a task, in the order of their first records; each ascending.

    Raises:
        EnvelopeInvalid: A line is no record; the text names it.
    """
    tasks: dict[str, dict[int, Record]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = _record(json.loads(line))
            task_id = Subject.parse(record.subject).task_id
        except (EnvelopeInvalid, KeyError, NameInvalid, TypeError, ValueError) as error:
            raise EnvelopeInvalid(f"{path}, line {number} is no record: {error!r}") from error
        tasks.setdefault(task_id, {})[record.position] = record
    return [tuple(task[position] for position in sorted(task)) for task in tasks.values()]


def save_histories(path: Path | str, *histories: Sequence[Record]) -> None:
    """Write histories as NDJSON, in the order of the log; payloads over 256 KiB are not in it."""
    records = sorted(_all(histories), key=lambda record: record.position)
    lines = [json.dumps(_kept(record)) for record in records]
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _all(histories: Iterable[Sequence[Record]]) -> list[Record]:
    return [record for history in histories for record in history]


def _kept(record: Record) -> dict[str, object]:
    return {
        "position": record.position,
        "stored_at": record.stored_at.isoformat(),
        "subject": record.subject,
        "raw": base64.b64encode(record.raw).decode(),
    }


def _record(line: object) -> Record:
    # Any: whatever a line of the file says; what does not fit raises.
    kept = cast("dict[str, Any]", line)
    raw = base64.b64decode(kept["raw"], validate=True)
    subject = kept.get("subject") or str(decode(raw).subject(kept["shard"]))
    stored_at = datetime.fromisoformat(kept.get("stored_at") or kept["storedAt"])
    return read_record(int(kept["position"]), stored_at, subject, raw)
