import io
import tokenize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.brief.extract import same_saying
from services.brief.prose import paragraphs
from services.brief.question import DEFAULT_QUESTION, MAX_ASPECTS, aspects
from services.brief.sentence import continues, reads_well, sentences, stands_alone
from services.brief.words import RELATED, coverage, raw_words, stem, terms
from tests.services.sample import document


def prose(path: str, text: str) -> list[tuple[int, str, str]]:
    return [(p.first_line, " ".join(p.lines), p.about) for p in paragraphs(document(path, text))]


def titles(question: str) -> list[str]:
    return [aspect.title for aspect in aspects(question)]


@pytest.mark.parametrize(
    "forms",
    [
        "cancel cancels cancelled cancelling cancellation cancellations canceled",
        "retry retries retried",
        "timeout timeouts",
        "run runs running",
        "process processes processing processed",
        "operate operates operating operated operation operations",
    ],
)
def test_the_forms_of_a_word_are_one_term(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


def test_words_written_apart_meet_the_compound() -> None:
    assert stem("timeout") in terms(raw_words("when it times out"))
    assert stem("shutdown") in terms(raw_words("Shut down the loop"))


def test_identifiers_are_split_into_words() -> None:
    assert raw_words("wait_for TaskGroup HTTPServer utf8") == [
        "wait", "for", "task", "group", "http", "server", "utf", "8",
    ]  # fmt: skip


def test_related_words_never_answer_alone() -> None:
    assert coverage(frozenset({stem("remove")}), {stem("delete"): 2.0}, [stem("delete")]) == 0.4
    assert all(term in RELATED[near] for term, others in RELATED.items() for near in others)


@given(st.frozensets(st.sampled_from("abcdef")), st.frozensets(st.sampled_from("abcdef")))
def test_more_words_never_cover_less(found: frozenset[str], more: frozenset[str]) -> None:
    weights = dict(zip("abcdef", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), strict=True))
    less = coverage(found, weights, "abcdef")
    assert 0.0 <= less <= coverage(found | more, weights, "abcdef") <= 1.0


def test_the_default_question_has_three_aspects_of_one_subject() -> None:
    assert titles(DEFAULT_QUESTION) == ["Run blocking code", "Cancel tasks", "Time out"]
    assert {aspect.subject for aspect in aspects(DEFAULT_QUESTION)} == {(stem("asyncio"),)}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("logging", ["Logging"]),
        ("What is pickle and why is it unsafe?", ["What is pickle", "Why is it unsafe"]),
        ("asyncio: timeouts, cancellation", ["Timeouts", "Cancellation"]),
        ("How does the borrow checker work?", ["How does the borrow checker work"]),
        ("cats, cats, cat", ["Cats"]),
        ("how does it?", []),
    ],
)
def test_a_question_is_split_at_its_clauses(question: str, expected: list[str]) -> None:
    assert titles(question) == expected


QUESTIONS = [
    ("How long do cats sleep, and what do dogs eat?", "How long do cats sleep | What do dogs eat"),
    ("what do dogs eat and", "What do dogs eat"),
    ("what do cats eat and drink", "What do cats eat and drink"),
    ("What do cats and dogs eat?", "What do cats and dogs eat"),
    ("Why do birds sing, and when do owls hunt?", "Why do birds sing | When do owls hunt"),
    (
        "how do whales breathe and how often do they sleep",
        "How do whales breathe | How often do they sleep",
    ),
    ("Which countries border Spain and Italy?", "Which countries border Spain and Italy"),
    ("Which is faster, a list or a tuple?", "Which is faster, a list or a tuple"),
    ("Should I use threads or processes?", "Should I use threads or processes"),
    ("How do threads and processes share memory?", "How do threads and processes share memory"),
    ("explain pickling and unpickling", "Pickling | Unpickling"),
    ("Explain read and write locks.", "Read and write locks"),
    ("Tell me about TCP and UDP sockets", "TCP and UDP sockets"),
    ("Compare lists, tuples and sets", "Lists | Tuples | Sets"),
    (
        "What are iterators, generators and coroutines?",
        "What are iterators | Generators | Coroutines",
    ),
    (
        "What is the difference between a mutex and a semaphore?",
        "What is the difference between a mutex and a semaphore",
    ),
    ("How do read and write locks differ?", "How do read and write locks differ"),
    (
        "How does a kernel open, read and close files?",
        "How does a kernel open, read and close files",
    ),
    (
        "How do I open a file, read its lines and close it?",
        "Open a file | Read its lines | Close it",
    ),
    (
        "Describe how bees make honey, store it and share it",
        "Make honey | Store it | Share it",
    ),
    (
        "How do you groom a cat, clip its claws and feed it?",
        "Groom a cat | Clip its claws | Feed it",
    ),
    (
        "How does a mesh handle timeouts, signals and errors?",
        "How does a mesh handle timeouts, signals and errors",
    ),
    (
        "What happens to a job when its worker dies and nobody restarts it?",
        "What happens to a job when its worker dies and nobody restarts it",
    ),
    (
        "How does a task end, when the loop is closed?",
        "How does a task end, when the loop is closed",
    ),
    ("Is the queue safe, and does it block?", "Is the queue safe | Does it block"),
    ("When are locks freed and who frees them?", "When are locks freed | Who frees them"),
    ("Who wrote Hamlet, and when?", "Who wrote Hamlet"),
    ("Cats and dogs: food, sleep", "Food | Sleep"),
    ("Explain how threads start and when locks block", "How threads start | When locks block"),
]
"""Question, and the titles a person would give its parts."""


@pytest.mark.parametrize(("question", "expected"), QUESTIONS)
def test_the_parts_of_a_question_are_what_a_person_would_call_them(
    question: str, expected: str
) -> None:
    assert titles(question) == expected.split(" | ")


_WORDS = "what how long do is the cats eat stop files and or , ? : when them of to explain"


@given(st.lists(st.sampled_from(_WORDS.split()), max_size=14).map(" ".join))
def test_no_title_begins_or_ends_between_two_things(question: str) -> None:
    for title in titles(question):
        words = title.lower().split()
        assert words[0] not in ("and", "or", ",", ":")
        assert words[-1] not in ("and", "or", ",", ":")


def test_verbs_share_their_subject_until_another_is_asked_about() -> None:
    cats, dogs = aspects("How long do cats sleep, and how long do dogs sleep?")
    assert (cats.own, cats.subject) == ((stem("sleep"),), (stem("cats"),))
    assert (dogs.own, dogs.subject) == ((stem("sleep"),), (stem("dogs"),))
    both = aspects("How do cats catch mice and clean themselves?")
    assert [aspect.subject for aspect in both] == [(stem("cats"),)] * 2


def test_a_verb_that_names_the_subject_is_not_what_is_asked_about_it() -> None:
    (found,) = aspects("How do read and write locks differ?")
    assert found.subject == (stem("read"), stem("write"), stem("locks"))
    assert found.own == (stem("differ"),)


def test_a_pronoun_stands_for_what_was_asked_before() -> None:
    _, after = aspects("How often does a job fail, and why is it slow?")
    assert (after.own, after.subject) == ((stem("slow"),), (stem("job"),))
    _, after = aspects("What is pickle and why is it unsafe?")
    assert (after.own, after.subject) == ((stem("unsafe"),), (stem("pickle"),))


@pytest.mark.parametrize("how", ["long", "much", "many", "often", "far", "old", "fast"])
def test_how_much_of_it_is_no_word_to_search_for(how: str) -> None:
    assert [aspect.own for aspect in aspects(f"How {how} is Bello?")] == [(stem("bello"),)]


@given(st.text(max_size=200))
def test_any_question_has_at_most_five_aspects_with_something_to_search(question: str) -> None:
    found = aspects(question)
    assert len(found) <= MAX_ASPECTS
    assert all(aspect.own and aspect.title for aspect in found)
    assert bool(found) or not terms(raw_words(question)) or len(question.split()) > 1


def test_python_gives_docstrings_and_comments_but_no_code() -> None:
    text = (
        '"""Module words."""\n'
        "class A:\n"
        '    """Class words.\n'
        "\n"
        "    More words::\n"
        "\n"
        "        code()\n"
        '    """\n'
        "    # Comment words\n"
        "    # go on.\n"
        "    x = 'a string'  # trailing\n"
        "    async def f(self):\n"
        '        r"""Method words."""\n'
    )
    assert prose("a.py", text) == [
        (1, "Module words.", ""),
        (3, "Class words.", "A"),
        (5, "More words::", "A"),
        (9, "Comment words go on.", ""),
        (13, "Method words.", "A.f"),
    ]


def test_python_that_does_not_parse_has_no_prose() -> None:
    assert prose("a.py", "def (:\n# A comment.\n") == []
    assert prose("a.py", "x = '\\d'\n# A comment.\n") == [(2, "A comment.", "")]


def test_markdown_gives_paragraphs_and_items_under_their_heading() -> None:
    text = (
        "# One\n\nFirst line\ngoes on.\n\n```\ncode\n```\n- item a\n- item b\n  goes on\n\n> said\n"
    )
    assert prose("a.md", text) == [
        (3, "First line goes on.", "One"),
        (9, "item a", "One"),
        (10, "item b goes on", "One"),
        (13, "said", "One"),
    ]


def test_rst_gives_prose_but_no_directive_field_or_literal_block() -> None:
    text = (
        "Title\n=====\n\nSome words::\n\n    code\n\nMore words.\n\n.. code:: x\n\n   code\n\n"
        ".. note::\n\n   A note.\n\n:field: value\n\n.. method:: run(x)\n\n   It runs.\n"
    )
    assert prose("a.rst", text) == [
        (4, "Some words::", "Title"),
        (8, "More words.", "Title"),
        (16, "A note.", "Title"),
        (22, "It runs.", "run"),
    ]


def test_html_gives_visible_text_with_its_lines() -> None:
    text = (
        "<h1>Head</h1><p>One <b>t</b>wo\nthree &lt;4&gt;.<p>Five.\n<script>no</script><pre>no</pre>"
    )
    assert prose("a.html", text) == [
        (1, "Head\nOne two three <4>.\nFive.", "Head"),
        (2, "three <4>.\nFive.", "Head"),
    ]
    found = [s.text for p in paragraphs(document("a.html", text)) for s in sentences(p)]
    assert "One two three <4>." in found
    assert "Five." in found
    assert all("no" not in sentence.split() for sentence in found)


def test_a_malformed_declaration_does_not_stop_the_reader() -> None:
    found = prose("a.html", "<p>One is here.</p>\n<![bad[ ]]>\n<p>Two.</p>")
    assert (1, "One is here.", "") in found


def test_sentences_end_where_they_end() -> None:
    text = 'It runs, e.g. a task. "Why?" It asks (twice.) Use a.b. Then v1.2 runs!'
    found = [s.text for s in sentences(paragraphs(document("a.txt", text))[0])]
    assert found == ["It runs, e.g. a task.", '"Why?"', "It asks (twice.)", "Use a.b.",
                     "Then v1.2 runs!"]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "A failed job is retried after a delay.",
        "Request that a task cancel itself.",
        "Cats sleep for thirteen hours a day.",
        "`timeout()` never raises when the limit is None.",
    ],
)
def test_whole_sentences_read_well(text: str) -> None:
    assert reads_well(text)


@pytest.mark.parametrize(
    "text",
    [
        "This arranges for an error to be thrown.",
        "Copyright 2026 by those who wrote the file.",
        "The value of x = 1 is set here.",
        "and then it goes on with the rest.",
        "A class for jobs with several workers.",
        "The job that was passed to one of the workers.",
        "Can be awaited on to see the result.",
        "Too short to say.",
        "The following table lists what is supported.",
        "The loop (which runs is never closed.",
        "The loop ends without a full stop",
        "The type List<T> is generic over its items.",
    ],
)
def test_fragments_code_and_boilerplate_do_not_read_well(text: str) -> None:
    assert not reads_well(text)


def test_a_sentence_with_an_unknown_verb_stands_alone() -> None:
    assert stands_alone("Owls hunt mice in the dark.")
    assert not reads_well("Owls hunt mice in the dark.")
    assert not stands_alone("They hunt mice in the dark.")


def test_a_sentence_that_points_back_continues_the_one_before() -> None:
    assert continues("This arranges for an error to be thrown.")
    assert not continues("An error is thrown into the coroutine.")


def test_sentences_with_the_same_words_say_the_same() -> None:
    assert same_saying("A failed job is retried.", "Failed jobs are retried!")
    assert not same_saying("A failed job is retried.", "A failed job is thrown away.")


def test_comments_are_the_ones_the_tokenizer_sees() -> None:
    text = 'x = """\n# not one, it is a string\n"""\n# This is a comment.\n'
    seen = [t.start[0] for t in tokenize.generate_tokens(io.StringIO(text).readline)
            if t.type == tokenize.COMMENT]  # fmt: skip
    assert [line for line, _, _ in prose("a.py", text)] == seen == [4]


@pytest.mark.parametrize("piece", ["<!--", "<a ", "<", "&"])
def test_markup_that_never_ends_is_read_in_linear_time(piece: str) -> None:
    # The parser alone takes minutes for such a file, and the lease would only be extended in vain.
    text = "<p>A job is here.</p>\n" + piece * 100_000
    assert (1, "A job is here.", "") in prose("a.html", text)


def test_a_comment_keeps_the_lines_behind_it() -> None:
    assert prose("a.html", "<!-- a\nb --><p>Here.</p>") == [(2, "Here.", "")]
