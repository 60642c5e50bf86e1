"""Questions about notes as people write them for themselves."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.task import State
from services.brief.message import BriefRequest
from services.brief.sentence import Form, form_of
from services.brief.verify import check_markdown, review, stands_at
from services.brief.words import stem
from tests.services.job import ended
from tests.services.sample import draft_of, write_request

PIECES = [
    "- ", "* ", "\n", "\n\n", "    ", "1. ", "> ", "[x] ", "# ", "<p>", "</p>", "<li>", "::",
    "A job fails", "Jobs:", "We retry the job. ", "This returns a job that failed. ", "\n- ",
    "failing job ", "job 14 March", ".", '"', "`", "**", ", ", "It waits", "”", "| job |",
    "x = job", "&amp; ",
]  # fmt: skip
SOURCES = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)

NOTES = {
    "2026-03-02-weekly.md": (
        "# Weekly, 2 March\n\n"
        "- We decided to store all events in SurrealDB, because one database is enough.\n"
        "- We talked about the offsite again, no result.\n"
        "- Lunch was late.\n"
    ),
    "hiring.txt": "Interview loop: pairing, system design, lunch. Bob leads the interviews.\n",
    "launch.md": (
        "# Launch\n\n- Launch date: 14 March\n- The launch needs a checklist.\n- Owner: Priya\n"
    ),
    "budget.txt": (
        "Budget is tight this year.\n"
        "Anna approved the travel budget of $4,000 on Monday.\n"
        "Nobody asked for more.\n"
    ),
    "vendor.md": (
        "Call with Hetzner\n\nI agreed to renew the server contract until June. "
        "They sent the papers. My next call with them is in May.\n"
    ),
    "retro.md": (
        "## What went badly\n\n- flaky tests cost us two days\n"
        "- deploys only work from Tom's laptop\n"
        "\n## What went well\n\n- Our pairing sessions were great.\n"
    ),
    "architecture/queue.md": "Decision on the queue:\n- NATS JetStream\n- no Kafka, too heavy\n",
    "trip.txt": "flight to Lisbon leaves 9:40 from gate B\nhotel is booked, paid by card\n",
    "todo.md": "- [x] Priya books the venue\n- [ ] TODO: send invoices to Acme before Friday\n",
    "one-on-one.txt": (
        "Talked to Sara. She wants to move to the platform team in autumn. "
        "We will find a successor for the billing service first.\n"
    ),
    "house.txt": "The boiler was serviced in October; the next service is due in 2027.\n",
    "reading.md": "> Notes on caching\n\nThe author says caches hide slow queries.\n",
}

ASKED = [
    ("What did we decide about storage?", "We decided to store all events in SurrealDB"),
    ("Who leads the interviews?", "Bob leads the interviews."),
    ("When is the launch?", "Launch date: 14 March"),
    ("Who approved the travel budget?", "Anna approved the travel budget of $4,000 on Monday."),
    ("Until when is the server contract renewed?", "I agreed to renew the server contract"),
    ("What did the flaky tests cost?", "flaky tests cost us two days"),
    ("What was the decision on the queue?", "NATS JetStream"),
    ("When does the flight to Lisbon leave?", "flight to Lisbon leaves 9:40 from gate B"),
    ("Who books the venue?", "Priya books the venue"),
    ("Which team does Sara want to move to?", "She wants to move to the platform team"),
    ("When is the next boiler service?", "the next service is due in 2027"),
    ("What do caches hide?", "caches hide slow queries"),
]


def first_quote(root: Path, question: str) -> str:
    return write_request(str(root), question).findings[0].quotes[0].text


def write(root: Path, notes: dict[str, str]) -> None:
    for path, text in notes.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("question", "answer"), ASKED)
async def test_notes_answer_a_question(tmp_path: Path, question: str, answer: str) -> None:
    write(tmp_path, NOTES)
    assert answer in first_quote(tmp_path, question)
    job = await ended(BriefRequest(question=question, docs=str(tmp_path)))
    assert check_markdown(str(tmp_path), job.brief.markdown) == []
    assert job.route == ["writer", "critic"]


@pytest.mark.parametrize(("question", "answer"), ASKED)
async def test_one_note_alone_answers_its_question(
    tmp_path: Path, question: str, answer: str
) -> None:
    source = next(name for name, text in NOTES.items() if answer in text)
    write(tmp_path, {source: NOTES[source]})
    job = await ended(BriefRequest(question=question, docs=str(tmp_path)))
    assert answer in job.brief.markdown


def test_a_note_about_the_thing_answers_what_was_decided_about_it(tmp_path: Path) -> None:
    write(
        tmp_path, {"a.md": "- Storage is SurrealDB\n- storage costs: 40 EUR\n- Lunch was late.\n"}
    )
    assert "Storage is SurrealDB" in first_quote(tmp_path, "What did we decide about storage?")


def test_the_items_that_a_colon_announces_are_quoted_once(tmp_path: Path) -> None:
    write(
        tmp_path, {"a.md": "Decided about the queue:\n\n- This is NATS and it needs one server.\n"}
    )
    assert first_quote(tmp_path, "What was decided about the queue?") == (
        "Decided about the queue: This is NATS and it needs one server."
    )


def test_items_on_a_page_are_quoted_as_one_line(tmp_path: Path) -> None:
    page = "<p>Decided about the queue:</p>\n<ul><li>NATS</li><li>one server</li></ul>\n"
    write(tmp_path, {"a.html": page})
    quote = first_quote(tmp_path, "What was decided about the queue?")
    assert quote == "Decided about the queue: NATS one server"


@given(SOURCES, st.sampled_from(["md", "txt", "rst", "html", "py"]))
def test_the_critic_takes_whatever_the_reader_quotes(text: str, suffix: str) -> None:
    with TemporaryDirectory() as root:
        text = f'"""{text}\n"""\n' if suffix == "py" else text
        (Path(root) / f"a.{suffix}").write_text(text, encoding="utf-8")
        draft = draft_of(root, "When does a job fail?")
        assert review(draft) == ()
        assert check_markdown(root, draft.markdown) == []


async def test_notes_about_something_else_fail(tmp_path: Path) -> None:
    write(tmp_path, NOTES)
    request = BriefRequest(question="How do penguins hatch eggs?", docs=str(tmp_path))
    job = await ended(request)
    assert job.state is State.FAILED
    assert "nothing relevant" in job.error


def test_a_remark_in_code_is_the_last_resort(tmp_path: Path) -> None:
    remark = "# We purge the cache = twice, sorry.\nx = 1\n"
    write(tmp_path, {"a.py": remark})
    assert first_quote(tmp_path, "How is the cache purged?") == "We purge the cache = twice, sorry."
    write(tmp_path, {"b.py": "# The cache is purged when it is full.\nx = 1\n"})
    assert first_quote(tmp_path, "How is the cache purged?").startswith("The cache is purged")


@pytest.mark.parametrize(
    ("text", "notes", "closes", "form"),
    [
        ("We decided to store events.", True, False, Form.WHOLE),
        ("I agreed to renew the contract.", True, False, Form.WHOLE),
        ("Our loop has two rounds.", True, False, Form.WHOLE),
        ("Bob leads them.", True, False, Form.WHOLE),
        ("We decided to store events.", False, False, Form.LOOSE),
        ("Anna approved the budget.", True, False, Form.UNSURE),
        ("Launch: 14 March", True, True, Form.ITEM),
        ("Launch: 14 March", False, True, Form.LOOSE),
        ("Launch: 14 March", True, False, None),
        ("They sent the papers.", True, False, Form.LOOSE),
        ("...", True, True, None),
        ("word " * 250 + "end.", True, True, None),
    ],
)
def test_the_form_of_a_note(text: str, notes: bool, closes: bool, form: Form | None) -> None:
    assert form_of(text, notes=notes, closes=closes) == form


def test_what_has_no_full_stop_must_end_its_paragraph() -> None:
    lines = ["Launch: 14 March", "Owner: Priya and Tom"]
    assert stands_at(lines, "Launch: 14 March", 1, 1, ends={1, 2})
    assert not stands_at(lines, "Launch: 14 March", 1, 1, ends={2})
    assert not stands_at(lines, "Owner: Priya", 2, 2, ends={1, 2})
    assert not stands_at(lines, "", 1, 1, ends={1, 2})


@pytest.mark.parametrize(
    "forms", ["store stores stored storing storage", "decide decides decided decision",
              "lead leads led leading leader", "meet meeting meetings met"],
)  # fmt: skip
def test_irregular_forms_of_a_word_are_one_term(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1
