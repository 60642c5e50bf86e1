from pathlib import Path
from shutil import copytree

import pytest
from pydantic import ValidationError

from mesh import Agent, Context, Fail, Reply
from mesh.agent.ports import Limits
from mesh.core import event as e
from mesh.core.task import State
from services.brief.compose import NOT_READ
from services.brief.extract import extract
from services.brief.message import (
    MAX_ROUNDS,
    BriefRequest,
    Defect,
    Draft,
    Notes,
    ReadAspect,
    ReviseRequest,
)
from services.brief.verify import check_markdown
from services.critic.agent import critic
from services.planner.agent import planner, search
from services.reader.agent import reader
from services.writer.agent import writer
from tests.runtime.rig import FAST
from tests.services.job import ended, replaying
from tests.services.sample import DOCS, QUESTION, draft_of

pytestmark = pytest.mark.anyio

GOLDEN = (Path(__file__).parent / "golden_brief.md").read_text(encoding="utf-8")
REQUEST = BriefRequest(question=QUESTION, docs=DOCS)


def failing(*titles: str) -> Agent:
    """A reader that gives up on aspects with these titles."""
    agent = Agent("reader")

    @agent.on(ReadAspect)
    async def read(ctx: Context, request: ReadAspect) -> Reply | Fail:
        if request.aspect.title in titles:
            return Fail("the lamp went out")
        return Reply(await ctx.step("read", extract, request.docs, request.aspect))

    return agent


@pytest.mark.parametrize("limits", [FAST, replaying()], ids=["once", "always_replay"])
async def test_the_agents_give_the_golden_brief(limits: Limits) -> None:
    job = await ended(REQUEST, limits=limits)
    brief = job.brief
    assert brief.markdown == GOLDEN
    assert job.route == ["writer", "critic"]
    assert (brief.stats.files_read, brief.stats.files_skipped) == (5, 1)
    assert (brief.stats.aspects, brief.stats.aspects_answered, brief.stats.rounds) == (3, 3, 1)
    assert "quotes stand word for word in their source" in job.task.constraints
    assert list(job.decided)[:3] == ["aspects", "folder", "quotes"]


async def test_each_aspect_has_a_reader_of_its_own() -> None:
    job = await ended(REQUEST)
    assert [child.objective for child in job.children] == [
        "read about: Retry a failed job",
        "read about: Drain workers",
        "read about: Store jobs",
    ]
    assert {child.owner for child in job.children} == {"reader"}
    assert {child.parent_task_id for child in job.children} == {job.task.task_id}
    assert await job.rig.kinds(job.children[0].task_id) == [
        "submitted",
        "work_started",
        "step_recorded",
        "completed",
    ]


async def test_what_was_read_of_the_folder_is_recorded_once_by_each_who_reads() -> None:
    job = await ended(REQUEST, limits=replaying())
    records = await job.rig.history(job.task.task_id)
    events = [record.envelope.event for record in records if record.envelope]
    assert [v.name for v in events if isinstance(v, e.StepRecorded)] == ["search", "review"]


async def test_the_writer_is_told_of_an_aspect_whose_reader_failed() -> None:
    agents = (planner, failing("Drain workers"), writer, critic)
    job = await ended(REQUEST, agents=agents)
    assert f"## Drain workers\n\n{NOT_READ} the lamp went out" in job.brief.markdown
    assert job.decided["not read: Drain workers"] == "its reader: the lamp went out"
    assert (job.brief.stats.aspects, job.brief.stats.aspects_answered) == (3, 2)
    kept = [part for part in GOLDEN.split("\n## ") if part.startswith(("Retry", "Store"))]
    assert all(part.partition("[")[0] in job.brief.markdown for part in kept)


async def test_a_job_whose_readers_all_fail_fails_and_says_why() -> None:
    readers = failing("Drain workers", "Retry a failed job", "Store jobs")
    job = await ended(REQUEST, agents=(planner, readers, writer, critic))
    assert job.state is State.FAILED
    assert "every reader failed, the first: the lamp went out" in job.error


async def test_a_reader_fails_when_nothing_is_as_it_was_ranked(tmp_path: Path) -> None:
    root = copytree(DOCS, tmp_path / "docs")
    drain = search(QUESTION, str(root)).aspects[1]
    for path in {passage.path for passage in drain.passages}:
        (root / path).write_text("Gone.\n", encoding="utf-8")
    job = await ended(ReadAspect(docs=str(root), aspect=drain), to="reader", agents=(reader,))
    assert job.state is State.FAILED
    assert "can be read as it was" in job.error


async def test_a_reader_with_nothing_to_read_finds_nothing() -> None:
    empty = search(QUESTION, DOCS).aspects[0].model_copy(update={"passages": ()})
    job = await ended(ReadAspect(docs=DOCS, aspect=empty), to="reader", agents=(reader,))
    assert job.state is State.COMPLETED
    assert job.task.result is not None
    assert Notes.model_validate_json(job.task.result.data).quotes == ()


def test_each_agent_announces_what_it_takes() -> None:
    cards = [agent.card(concurrency=1) for agent in (planner, reader, writer, critic)]
    assert [(card.name, len(card.inputs)) for card in cards] == [
        ("planner", 1), ("reader", 1), ("writer", 2), ("critic", 1),
    ]  # fmt: skip


async def test_a_folder_moved_elsewhere_gives_the_same_brief(tmp_path: Path) -> None:
    copytree(DOCS, tmp_path / "docs")
    job = await ended(BriefRequest(question=QUESTION, docs=str(tmp_path / "docs")))
    assert job.brief.markdown == GOLDEN


async def test_a_missing_folder_is_rejected_with_its_field(tmp_path: Path) -> None:
    job = await ended(BriefRequest(question=QUESTION, docs=str(tmp_path / "gone")))
    assert job.state is State.REJECTED
    assert job.task.failure is not None
    assert job.task.failure.details["field"] == "docs"
    assert str(tmp_path / "gone") in job.error


async def test_a_question_without_a_word_to_search_for_is_rejected() -> None:
    job = await ended(BriefRequest(question="How does it?", docs=DOCS))
    assert job.state is State.REJECTED
    assert job.task.failure is not None
    assert job.task.failure.details["field"] == "question"


async def test_an_empty_folder_fails_and_says_what_is_read(tmp_path: Path) -> None:
    job = await ended(BriefRequest(question=QUESTION, docs=str(tmp_path)))
    assert job.state is State.FAILED
    assert str(tmp_path) in job.error
    assert ".md, .txt, .rst, .py, .html" in job.error


async def test_a_folder_without_readable_text_fails_with_its_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\0\1\2")
    job = await ended(BriefRequest(question=QUESTION, docs=str(tmp_path)))
    assert job.state is State.FAILED
    assert "0 files read, 1 skipped" in job.error


async def test_a_question_about_something_else_fails_as_irrelevant() -> None:
    job = await ended(BriefRequest(question="How do penguins hatch eggs?", docs=DOCS))
    assert job.state is State.FAILED
    assert "nothing relevant" in job.error
    assert DOCS in job.error
    assert job.children == ()


async def test_a_changed_file_is_replaced_or_left_out_after_one_revision(tmp_path: Path) -> None:
    root = copytree(DOCS, tmp_path / "docs")
    draft = draft_of(str(root))
    (root / "guide" / "queue.md").write_text("Gone.\n", encoding="utf-8")
    job = await ended(draft, to="critic", agents=(writer, critic))
    assert job.route == ["writer", "critic"]
    assert job.decided["review 1"].count("the file has changed") == 1
    assert job.brief.stats.rounds == 2
    assert "queue.md" not in job.brief.markdown
    assert check_markdown(str(root), job.brief.markdown) == []


async def test_the_critic_gives_up_after_the_last_round() -> None:
    draft = draft_of(DOCS)
    last = draft.model_copy(update={"round": MAX_ROUNDS + 1, "markdown": "something else"})
    job = await ended(last, to="critic", agents=(critic,))
    assert job.state is State.FAILED
    assert "after 3 revisions" in job.error


async def test_the_writer_fails_when_no_quote_is_left() -> None:
    draft = draft_of(DOCS)
    quotes = [quote for found in draft.request.findings for quote in found.quotes]
    defects = tuple(Defect(kind="words", quote=quote, detail="wrong") for quote in quotes)
    value = ReviseRequest(draft=draft, defects=defects)
    job = await ended(value, to="writer", agents=(writer, critic))
    assert job.state is State.FAILED
    assert "no quote is left" in job.error


@pytest.mark.parametrize(
    "value",
    [
        {"question": ""},
        {"question": " \n"},
        {"question": "x" * 501},
        {"question": "why", "docs": "relative/folder"},
        {"question": "why", "docs": "/a\0b"},
        {"question": "why", "folder": "/a"},
    ],
)
def test_a_request_that_does_not_fit_is_refused(value: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        BriefRequest.model_validate(value)


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/hosts.txt", "a/../../b.txt", ""])
def test_a_quote_cannot_name_a_file_outside_the_folder(path: str) -> None:
    draft = draft_of(DOCS).model_dump()
    draft["citations"][0]["path"] = path
    with pytest.raises(ValidationError):
        Draft.model_validate(draft)
