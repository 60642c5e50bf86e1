"""The demo, on folders of its own."""

import json
import os
import re
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from services.brief.folder import default_docs
from services.brief.verify import check_markdown
from tests.system.local import MANIFEST, Answer, Local, running

pytestmark = pytest.mark.live

QUESTION = "How long do cats sleep, and what do dogs eat?"
TEXT = """\
# Animals

Cats sleep for thirteen hours a day, mostly while the sun shines.

Dogs eat meat, and they eat bread when nobody looks.
"""


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def test_the_demo_writes_a_brief_and_proves_it_twice(local: Local) -> None:
    docs = local.folder / "docs"
    docs.mkdir()
    (docs / "animals.md").write_text(TEXT, encoding="utf-8")
    (docs / "picture.md").write_bytes(bytes(range(256)) * 8)
    before = {path.name for path in local.folder.iterdir()}
    briefs: list[str] = []
    for _ in range(2):
        answer = local.ok("demo", "--question", QUESTION, "--docs", "docs")
        briefs.append((local.folder / ".mesh-demo" / "brief.md").read_text(encoding="utf-8"))
        pids = re.findall(r"^ *(?:planner|reader|writer|critic|ledger) +(\d+)", answer.out, re.M)
        assert len(set(pids)) == 5
        assert answer.out.count("✓") == 4  # events, the task, its two children
        assert "✗" not in answer.out
        shown, _, rest = answer.out.partition("\n\nWHO ")
        assert rest
        assert briefs[-1].startswith(shown)
        assert shown.startswith("# ")
        assert "they eat bread" in shown
        assert "invoke_agent critic" in answer.out
        assert aspects_of(answer) == {"How long do cats sleep", "What do dogs eat"}
        drawn = answer.out.partition("\ntrace ")[2].splitlines()
        assert [line for line in drawn if re.match(r"(?:send|process) ", line)] == [
            next(line for line in drawn if line.startswith("send mesh.default.s0.planner"))
        ]
        assert sum("invoke_agent reader" in line for line in drawn) == 2
    assert "they eat bread" in briefs[0]
    assert briefs[0] == briefs[1]
    assert {path.name for path in local.folder.iterdir()} - before == {".mesh-demo"}
    assert not (local.folder / ".mesh-demo" / "mesh.json").exists()


def aspects_of(answer: Answer) -> set[str]:
    """What the readers read about, by the timeline, where they stand indented."""
    shown = answer.out.partition("\n\nWHO ")[2].partition("\n\n")[0]
    return set(re.findall(r"^  reader .* completed: read about: (.*?) *$", shown, re.M))


def test_children_are_told_of_while_they_run(local: Local) -> None:
    docs = local.folder / "docs"
    docs.mkdir()
    (docs / "animals.md").write_text(TEXT, encoding="utf-8")
    said = local.ok("demo", "--question", QUESTION, "--docs", "docs").err
    lines = re.findall(r"^ +[\d.]+ s( +)(\w+) \(pid \d+\) (.*)$", said, re.M)
    told = [(len(indent) // 2, who, what) for indent, who, what in lines]
    assert told.count((1, "planner", "delegated to reader")) == 2
    finished = (2, "reader", "completed: read about: What do dogs eat")
    assert told.index(finished) < told.index((1, "planner", "handed off to writer"))


def test_a_task_and_its_trace_show_the_children(tmp_path: Path) -> None:
    agents = [
        f'[agents.{name}]\nagent = "services.{name}.agent:{name}"\n'
        for name in ("planner", "reader", "writer", "critic")
    ]
    local = Local(tmp_path, "\n".join([MANIFEST.partition("[agents")[0], *agents]))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "animals.md").write_text(TEXT, encoding="utf-8")
    request = json.dumps({"question": QUESTION, "docs": str(docs)})
    with running(local):
        submit = local.ok("task", "submit", "planner", "--input", request, "--wait", "--json")
        task_id = submit.json["taskId"]
        drawn = local.ok("trace", task_id, "--json").json
        shown = local.ok("task", "show", task_id).out
        spans = drawn["spans"]
        children = {span["taskId"] for span in spans} - {task_id}
        assert len(children) == 2
        assert {span["traceId"] for span in spans} == {drawn["traceId"]}
        assert [span["name"] for span in spans if not span["depth"]] == [spans[0]["name"]]
        assert all(f"{child}  reader  COMPLETED" in shown for child in children)
        below = local.ok("trace", children.pop(), "--json").json
        assert {span["traceId"] for span in below["spans"]} == {drawn["traceId"]}
        ledger = next(each.pid for each in local.run().services if each.kind == "ledger")
        os.kill(ledger, SIGSTOP)
        try:
            asked = local.ok("task", "show", task_id)
        finally:
            os.kill(ledger, SIGCONT)
        assert "children that have ended are not shown" in asked.err
        assert "COMPLETED" in asked.out


def test_the_brief_goes_where_it_is_wanted(local: Local) -> None:
    docs = local.folder / "docs"
    docs.mkdir()
    (docs / "animals.md").write_text(TEXT, encoding="utf-8")
    out = ["--out", "wanted", "--data", "elsewhere"]
    local.ok("demo", "--question", QUESTION, "--docs", "docs", *out)
    assert "they eat bread" in (local.folder / "wanted" / "brief.md").read_text(encoding="utf-8")
    assert (local.folder / "elsewhere" / "logs").is_dir()
    assert not (local.folder / ".mesh-demo").exists()


def test_an_empty_folder_gives_a_clear_message(local: Local) -> None:
    (local.folder / "empty").mkdir()
    earlier = local.folder / ".mesh-demo" / "brief.md"
    earlier.parent.mkdir()
    earlier.write_text("what an earlier run found", encoding="utf-8")
    answer = local.mesh("demo", "--docs", "empty")
    assert answer.code == 1
    assert "no documents in" in answer.err
    assert not (local.folder / ".mesh-demo" / "brief.md").exists()


def test_a_missing_folder_is_a_mistake(local: Local) -> None:
    answer = local.mesh("demo", "--docs", "nowhere")
    assert answer.code == 2
    assert "there is no folder nowhere" in answer.err
    assert not (local.folder / ".mesh-demo").exists()


def test_a_file_instead_of_a_folder_is_a_mistake(local: Local) -> None:
    (local.folder / "one.md").write_text(TEXT, encoding="utf-8")
    answer = local.mesh("demo", "--docs", "one.md")
    assert answer.code == 2
    assert "one.md is not a folder" in answer.err
    answer = local.mesh("demo", "--out", "one.md/here")
    assert answer.code == 2
    assert "cannot put the brief into one.md/here" in answer.err
    assert not (local.folder / ".mesh-demo").exists()


def test_help_names_the_folder_that_the_demo_really_uses(local: Local) -> None:
    shown = " ".join(local.ok("demo", "--help").out.replace("│", " ").split())
    assert "default ./.mesh-demo." in shown
    assert "else ./.mesh." not in shown


def test_every_quote_of_a_large_folder_stands_where_it_is_cited(
    local: Local, pytestconfig: pytest.Config
) -> None:
    docs = local.folder / "docs"
    docs.mkdir()
    (docs / "animals.md").write_text(TEXT, encoding="utf-8")
    for number in range(5_000 if pytestconfig.getoption("--bars") else 200):
        folder = docs / f"part{number % 50}"
        folder.mkdir(exist_ok=True)
        text = f"Animal {number} is a beast. Beast {number} sleeps in barn {number} at night.\n"
        (folder / f"beast{number}.txt").write_text(text, encoding="utf-8")
    local.ok("demo", "--question", QUESTION, "--docs", "docs")
    brief = (local.folder / ".mesh-demo" / "brief.md").read_text(encoding="utf-8")
    assert "Cats sleep for thirteen hours a day" in brief
    assert "they eat bread" in brief
    assert brief.count("\u201c") >= 3
    assert check_markdown(str(docs), brief) == []


def test_the_default_documents_are_quoted_word_for_word(
    local: Local, pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("--bars"):
        pytest.skip("ranks 28,000 passages; `make bars` runs it, `make demo` does the same")
    answer = local.ok("demo")
    brief = (local.folder / ".mesh-demo" / "brief.md").read_text(encoding="utf-8")
    assert brief.count("\u201c") >= 3
    assert check_markdown(default_docs(), brief) == []
    route = re.findall(r"handed off to (\w+)", answer.out.partition("WHO")[2])
    assert route[:2] == ["writer", "critic"]
