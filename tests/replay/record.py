"""Record the histories of one real mesh, to be kept for ever: `python -m tests.replay.record`.

Run once for each released version of the wire; what was recorded is never written again.
"""

import base64
import json
import shutil
import sys
import tempfile
from pathlib import Path

import grpc

from mesh.wire.v1.ledger_pb2 import ReadHistoryRequest, ReadHistoryResponse
from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceStub
from tests.services.sample import DOCS, QUESTION
from tests.system.local import MANIFEST, Local, running

BRIEF = "".join(
    f'\n[agents.{name}]\nagent = "services.{name}.agent:{name}"\n'
    for name in ("planner", "reader", "writer", "critic")
)
GREETINGS = ("world", "nobody", "poison", "slow")


def record(folder: Path, into: Path) -> None:
    """Let a mesh meet every way a task can end, and write down its log."""
    local = Local(folder, MANIFEST + BRIEF)
    docs = shutil.copytree(DOCS, folder / "docs")  # a path of no machine in particular
    with running(local):
        tasks = [submit(local, "greeter", {"name": name}) for name in GREETINGS]
        tasks.append(submit(local, "greeter", {"name": "x", "times": "often"}))
        tasks.append(submit(local, "planner", {"question": QUESTION, "docs": str(docs)}))
        local.ok("task", "cancel", tasks[GREETINGS.index("slow")], "--reason", "enough")
        for task_id in tasks:
            wait(local, task_id)
        poisoned = tasks[GREETINGS.index("poison")]
        local.ok("dlq", "redrive", poisoned)
        wait(local, poisoned)
        by_position = {p: line for task_id in tasks for p, line in history(local, task_id)}
    lines = [json.dumps(by_position[position]) for position in sorted(by_position)]
    into.write_text("\n".join(lines) + "\n", encoding="utf-8")


def submit(local: Local, agent: str, value: object) -> str:
    """Submit a task; gives its id."""
    answer = local.ok("task", "submit", agent, "--json", "--input", json.dumps(value))
    return answer.json["taskId"]


def wait(local: Local, task_id: str) -> None:
    """Wait until a task is closed."""
    while not local.ok("task", "show", task_id, "--json").json.get("closedAt"):
        pass


def history(local: Local, task_id: str) -> list[tuple[int, dict[str, object]]]:
    """One task's records as the ledger has them, each with its position."""
    with grpc.insecure_channel(local.run().ledger) as channel:
        records = LedgerServiceStub(channel).ReadHistory(ReadHistoryRequest(task_id=task_id))
        return [(record.position, kept(record)) for record in records]


def kept(record: ReadHistoryResponse) -> dict[str, object]:
    """What is written down of a record."""
    return {
        "position": record.position,
        "stored_at": record.stored_at.ToJsonString(),
        "subject": record.subject,
        "raw": base64.b64encode(record.raw).decode(),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        record(Path(made), Path(sys.argv[1]))
