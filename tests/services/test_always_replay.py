"""The sample agents, each run again over its record after every single thing that came back."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest

from mesh.errors import TaskFailed, TaskRejected
from mesh.testing import LocalTask, first_divergence, local_mesh
from services.brief.message import Brief, BriefRequest
from services.critic.agent import critic
from services.planner.agent import planner
from services.reader.agent import reader
from services.writer.agent import writer
from tests.services.sample import DOCS, QUESTION

GOLDEN = Path(__file__).parent / "golden_brief.md"
AGENTS = (planner, reader, writer, critic)


async def run(question: str, docs: str, *, always_replay: bool) -> list[LocalTask]:
    """Every task of a job, the job itself first; none may be left open or parked."""
    async with local_mesh(*AGENTS, always_replay=always_replay, patience_s=60) as mesh:
        await mesh.submit("planner", BriefRequest(question=question, docs=docs))
        await mesh.settled()
        assert {task.id: task.parked for task in mesh.tasks if not task.folded.closed} == {}
        return mesh.tasks


@pytest.mark.parametrize("always_replay", [True, False])
async def test_the_job_gives_the_golden_brief(always_replay: bool) -> None:
    job, *children = await run(QUESTION, DOCS, always_replay=always_replay)
    brief = await job.result(Brief)
    assert brief.markdown == GOLDEN.read_text(encoding="utf-8")
    assert {child.owner for child in children} == {"reader"}
    for task in (job, *children):
        for agent in AGENTS:
            assert await first_divergence(agent, task.history) is None


async def test_what_ends_badly_ends_the_same_way(tmp_path: Path) -> None:
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.mkdir()
    (job,) = await run(QUESTION, str(gone), always_replay=True)
    with pytest.raises(TaskRejected, match="there is no folder"):
        await job.result()
    (job,) = await run(QUESTION, str(empty), always_replay=True)
    with pytest.raises(TaskFailed, match="no documents"):
        await job.result()


async def test_a_folder_moved_elsewhere_gives_the_same_brief(tmp_path: Path) -> None:
    copytree(DOCS, tmp_path / "docs")
    job, *_ = await run(QUESTION, str(tmp_path / "docs"), always_replay=True)
    brief = await job.result(Brief)
    assert brief.markdown == GOLDEN.read_text(encoding="utf-8")
