import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.brief.compose import compose, parse, revise
from services.brief.folder import Unread, list_documents, open_document
from services.brief.message import Draft, Quote, WriteRequest
from services.brief.prose import canonical_lines, canonical_text, paragraphs
from services.brief.sentence import ends_whole, reads_well, sentences
from services.brief.verify import check_markdown, review, stands_at
from tests.services.sample import DOCS, document, draft_of, write_request

ROOT = Path(__file__).parents[2]
DRAFT = draft_of(DOCS)
QUOTES = [quote for found in DRAFT.request.findings for quote in found.quotes]
SUFFIXES = ["md", "txt", "rst", "py", "html"]
PIECES = [
    "# ", '"""', "'''", "- ", "* ", "\n", "\n\n", "    ", "\t", "::", "```", "<p>", "</p>", "<b>",
    "<pre>", "&amp;", "&lt;", "<![x", "A job fails here. ", "It waits (again). ", "The end", ".",
    "def f():", "x = 1", ".. note::", "====", "| a |", "\r", "\f", "\u2028", "é", "”", "[1]", "\\",
]  # fmt: skip
SOURCES = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def with_quote(quote: Quote) -> WriteRequest:
    """The request, with its first quote replaced."""
    first = DRAFT.request.findings[0]
    changed = first.model_copy(update={"quotes": (quote, *first.quotes[1:])})
    findings = (changed, *DRAFT.request.findings[1:])
    return DRAFT.request.model_copy(update={"findings": findings})


def kinds(request: WriteRequest) -> list[str]:
    return [defect.kind for defect in review(compose(request, round=1))]


@given(SOURCES, st.sampled_from(SUFFIXES))
def test_every_whole_sentence_of_any_document_stands_where_it_was_found(
    text: str, suffix: str
) -> None:
    doc = document(f"a.{suffix}", text)
    lines = canonical_lines(doc)
    assert len(lines) == len(doc.lines)
    for paragraph in paragraphs(doc):
        for sentence in sentences(paragraph):
            if ends_whole(sentence.text):
                assert stands_at(lines, sentence.text, sentence.first_line, sentence.last_line)


@given(st.sampled_from(QUOTES), st.data())
def test_any_altered_character_is_caught(quote: Quote, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(quote.text) - 1))
    new = data.draw(st.sampled_from(["", "x", "xx", ".", "é"]))
    altered = quote.text[:at] + new + quote.text[at + 1 :]
    document = open_document(DOCS, quote.path)
    assert not isinstance(document, Unread)
    stands = stands_at(canonical_lines(document), altered, quote.first_line, quote.last_line)
    assert stands == (altered == quote.text)


@given(st.sampled_from(QUOTES), st.integers(-3, 3), st.integers(-3, 3))
def test_any_other_lines_are_caught(quote: Quote, up: int, down: int) -> None:
    document = open_document(DOCS, quote.path)
    assert not isinstance(document, Unread)
    first, last = quote.first_line + up, quote.last_line + down
    stands = stands_at(canonical_lines(document), quote.text, first, last)
    assert stands == (up == 0 and down == 0)


@given(st.text("0123456789abcdef", min_size=64, max_size=64))
def test_any_other_hash_is_caught(sha256: str) -> None:
    quote = DRAFT.request.findings[0].quotes[0]
    found = kinds(with_quote(quote.model_copy(update={"sha256": sha256})))
    assert ("hash" in found) == (sha256 != quote.sha256)


def test_the_draft_of_the_fixture_has_no_defect() -> None:
    assert review(DRAFT) == ()
    assert check_markdown(DOCS, DRAFT.markdown) == []


def test_a_draft_survives_the_wire() -> None:
    assert Draft.model_validate_json(DRAFT.model_dump_json()) == DRAFT


def test_the_same_folder_gives_the_same_bytes() -> None:
    assert draft_of(DOCS).model_dump_json() == DRAFT.model_dump_json()


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_seed_of_hashes_changes_nothing(seed: str) -> None:
    code = "from tests.services.sample import *; print(draft_of(DOCS).model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == DRAFT.model_dump_json()


def test_an_invented_quote_is_a_defect_and_the_revision_drops_it() -> None:
    quote = DRAFT.request.findings[0].quotes[0]
    invented = quote.model_copy(update={"text": "A failed job is never retried by anyone."})
    draft = compose(with_quote(invented), round=1)
    defects = review(draft)
    assert [defect.kind for defect in defects] == ["words"]
    revised = revise(draft, defects)
    assert revised.round == 2
    assert invented.text not in revised.markdown
    assert review(revised) == ()


def test_a_repeat_is_a_defect() -> None:
    first = DRAFT.request.findings[0]
    twice = first.model_copy(update={"quotes": (first.quotes[0], first.quotes[0])})
    findings = (twice, *DRAFT.request.findings[1:])
    assert kinds(DRAFT.request.model_copy(update={"findings": findings})) == ["repeat"]


def test_an_aspect_left_empty_although_found_is_a_defect() -> None:
    silent = DRAFT.answers[0].model_copy(update={"quotes": ()})
    draft = DRAFT.model_copy(update={"answers": (silent, *DRAFT.answers[1:])})
    assert "uncovered" in [defect.kind for defect in review(draft)]
    missing = DRAFT.model_copy(update={"answers": DRAFT.answers[1:]})
    assert "uncovered" in [defect.kind for defect in review(missing)]


def test_an_aspect_without_a_source_says_so() -> None:
    request = write_request(DOCS, "How are penguins fed, and how is a failed job retried?")
    draft = compose(request, round=1)
    assert "## How are penguins fed\n\nNothing found about this" in draft.markdown
    assert review(draft) == ()


def test_a_text_that_does_not_show_its_quotes_is_a_defect() -> None:
    draft = DRAFT.model_copy(update={"markdown": DRAFT.markdown.replace("job", "cat")})
    assert [defect.kind for defect in review(draft)] == ["text"]
    assert check_markdown(DOCS, draft.markdown) != []


def test_markdown_reads_back_as_its_quotes_and_sources() -> None:
    quotes, sources = parse(DRAFT.markdown)
    shown = {quote.text for answer in DRAFT.answers for quote in answer.quotes}
    assert {quote.text for quote in quotes} == shown
    assert [(s.number, s.path, s.first_line, s.last_line) for s in sources] == [
        (c.number, c.path, c.first_line, c.last_line) for c in DRAFT.citations
    ]


def test_markdown_in_a_question_stays_text() -> None:
    draft = draft_of(DOCS, "How is a *failed* job <b>retried</b>?")
    assert draft.markdown.startswith("# How is a \\*failed\\* job \\<b\\>retried\\</b\\>?\n")


def test_every_quote_is_a_sentence_that_reads_well_and_is_unique() -> None:
    assert all(reads_well(quote.text) for quote in QUOTES)
    assert len({quote.text for quote in QUOTES}) == len(QUOTES)


def test_canonical_text_joins_lines_without_blank_ones() -> None:
    assert canonical_text(["a b", "", "c\nd"], 1, 3) == "a b c d"


def test_binary_files_are_listed_but_not_read() -> None:
    assert "picture.txt" in list_documents(DOCS).paths
    assert open_document(DOCS, "picture.txt") == Unread("picture.txt", "binary")


RARE = "How long do cats sleep, and what do dogs eat?"


def _crowd(folder: Path, *, said: str) -> WriteRequest:
    for number in range(60):
        text = f"Animal {number} is a beast. Beast {number} sleeps in barn {number} at night.\n"
        (folder / f"beast{number}.txt").write_text(text, encoding="utf-8")
    (folder / "animals.md").write_text(f"# Animals\n\n{said}\n", encoding="utf-8")
    return write_request(str(folder), RARE)


@pytest.mark.parametrize("verb", ["sleep", "doze", "hibernate"])
def test_who_names_the_rare_word_is_quoted_whatever_the_crowd_says(
    tmp_path: Path, verb: str
) -> None:
    cats = f"Cats {verb} for thirteen hours, mostly while the sun shines."
    dogs = "Dogs eat meat, and they eat bread when nobody looks."
    found = _crowd(tmp_path, said=f"{cats}\n\n{dogs}").findings
    assert [[quote.text for quote in f.quotes] for f in found] == [[cats], [dogs]]


def test_a_sentence_whose_verb_is_unknown_is_better_than_nothing(tmp_path: Path) -> None:
    found = _crowd(tmp_path, said="Dogs devour everything and eat quickly.").findings
    assert [quote.text for quote in found[1].quotes] == ["Dogs devour everything and eat quickly."]
