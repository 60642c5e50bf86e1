from pathlib import Path
from shutil import copytree

import pytest
from pydantic import ValidationError

from mesh import Fail, Handoff, Reject, Reply
from services.brief.message import MAX_ROUNDS, Brief, BriefRequest, Defect, Draft, ReviseRequest
from services.brief.verify import check_markdown
from services.critic.agent import critic, criticise
from services.planner.agent import plan, planner
from services.reader.agent import reader
from services.writer.agent import rewrite, writer
from tests.services.job import FakeContext, relay
from tests.services.sample import DOCS, QUESTION, draft_of

GOLDEN = Path(__file__).parent / "golden_brief.md"


async def test_the_relay_gives_the_golden_brief() -> None:
    ctx = FakeContext()
    outcome, hops = await relay(BriefRequest(question=QUESTION, docs=DOCS), ctx)
    assert isinstance(outcome, Reply)
    brief = outcome.value
    assert isinstance(brief, Brief)
    assert hops == ["reader", "writer", "critic"]
    assert brief.markdown == GOLDEN.read_text(encoding="utf-8")
    assert (brief.stats.files_read, brief.stats.files_skipped) == (5, 1)
    assert (brief.stats.aspects, brief.stats.aspects_answered, brief.stats.rounds) == (3, 3, 1)
    assert "quotes stand word for word in their source" in ctx.constraints
    assert ctx.decisions[0][0] == "aspects"


def test_each_agent_announces_what_it_takes() -> None:
    cards = [agent.card(concurrency=1) for agent in (planner, reader, writer, critic)]
    assert [(card.name, len(card.inputs)) for card in cards] == [
        ("planner", 1), ("reader", 1), ("writer", 2), ("critic", 1),
    ]  # fmt: skip


async def test_a_folder_moved_elsewhere_gives_the_same_brief(tmp_path: Path) -> None:
    copytree(DOCS, tmp_path / "docs")
    request = BriefRequest(question=QUESTION, docs=str(tmp_path / "docs"))
    outcome, _ = await relay(request, FakeContext())
    assert isinstance(outcome, Reply)
    assert outcome.value.markdown == GOLDEN.read_text(encoding="utf-8")


async def test_a_handler_run_twice_gives_the_same_handoff() -> None:
    request = BriefRequest(question=QUESTION, docs=DOCS)
    assert await plan(FakeContext(), request) == await plan(FakeContext(), request)


async def test_a_missing_folder_is_rejected_with_its_field(tmp_path: Path) -> None:
    request = BriefRequest(question=QUESTION, docs=str(tmp_path / "gone"))
    outcome = await plan(FakeContext(), request)
    assert isinstance(outcome, Reject)
    assert outcome.field == "docs"
    assert str(tmp_path / "gone") in outcome.message


async def test_a_question_without_a_word_to_search_for_is_rejected() -> None:
    outcome = await plan(FakeContext(), BriefRequest(question="How does it?", docs=DOCS))
    assert isinstance(outcome, Reject)
    assert outcome.field == "question"


async def test_an_empty_folder_fails_and_says_what_is_read(tmp_path: Path) -> None:
    outcome = await plan(FakeContext(), BriefRequest(question=QUESTION, docs=str(tmp_path)))
    assert isinstance(outcome, Fail)
    assert str(tmp_path) in outcome.message
    assert ".md, .txt, .rst, .py, .html" in outcome.message


async def test_a_folder_without_readable_text_fails_with_its_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\0\1\2")
    outcome = await plan(FakeContext(), BriefRequest(question=QUESTION, docs=str(tmp_path)))
    assert isinstance(outcome, Fail)
    assert "0 files read, 1 skipped" in outcome.message


async def test_a_question_about_something_else_fails_as_irrelevant() -> None:
    request = BriefRequest(question="How do penguins hatch eggs?", docs=DOCS)
    outcome = await plan(FakeContext(), request)
    assert isinstance(outcome, Fail)
    assert "nothing relevant" in outcome.message
    assert DOCS in outcome.message


async def test_a_changed_file_is_replaced_or_left_out_after_one_revision(tmp_path: Path) -> None:
    root = copytree(DOCS, tmp_path / "docs")
    draft = draft_of(str(root))
    (root / "guide" / "queue.md").write_text("Gone.\n", encoding="utf-8")
    ctx = FakeContext()
    sent_back = await criticise(ctx, draft)
    assert isinstance(sent_back, Handoff)
    assert sent_back.agent == "writer"
    assert {defect.kind for defect in sent_back.value.defects} == {"hash"}
    revised = await rewrite(ctx, sent_back.value)
    assert isinstance(revised, Handoff)
    outcome = await criticise(ctx, revised.value)
    assert isinstance(outcome, Reply)
    assert outcome.value.stats.rounds == 2
    assert "queue.md" not in outcome.value.markdown
    assert check_markdown(str(root), outcome.value.markdown) == []


async def test_the_critic_gives_up_after_the_last_round() -> None:
    draft = draft_of(DOCS)
    last = draft.model_copy(update={"round": MAX_ROUNDS + 1, "markdown": "something else"})
    outcome = await criticise(FakeContext(), last)
    assert isinstance(outcome, Fail)
    assert "after 3 revisions" in outcome.message


async def test_the_writer_fails_when_no_quote_is_left() -> None:
    draft = draft_of(DOCS)
    quotes = [quote for found in draft.request.findings for quote in found.quotes]
    defects = tuple(Defect(kind="words", quote=quote, detail="wrong") for quote in quotes)
    outcome = await rewrite(FakeContext(), ReviseRequest(draft=draft, defects=defects))
    assert isinstance(outcome, Fail)


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
