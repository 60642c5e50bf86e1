"""Commands for tasks that wait, are held or are dead, against a gateway in this process.

No agent runs: the tests write what one would have written.
"""

import os
import pty
import subprocess
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from anyio import to_thread

from mesh.clock import SystemClock
from mesh.core import event as e
from tests.make import START
from tests.runtime.gateway_rig import kinds
from tests.system.local import COMMAND, TIMEOUT_S
from tests.system.shell import Shell, opened

ASKED, SECOND, CHILD = "a1" * 16, "a2" * 16, "c1" * 16
SCHEMA = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'
DUE = START + timedelta(days=3)


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncGenerator[Shell]:
    async with opened(tmp_path) as made:
        yield made


def question(request_id: str = ASKED, ordinal: int = 1) -> e.InputRequested:
    return e.InputRequested(
        ordinal=ordinal,
        request_id=request_id,
        prompt="May it go out?",
        json_schema=SCHEMA,
        expires_at=DUE,
    )


async def test_a_question_is_shown_and_answered_once(shell: Shell) -> None:
    waits = (
        e.Wait(what="input", id=ASKED),
        e.Wait(what="child", id=CHILD),
        e.Wait(what="timer", id="t1", group=1),
        e.Wait(what="signal", id="go/1", group=2),
    )
    task_id = await shell.begun(
        question(),
        e.Delegated(ordinal=2, child_task_id=CHILD, agent="writer", budget={"tokens": 4}),
        e.TimerSet(ordinal=3, timer_id="t1", fires_at=DUE),
        e.Suspended(waits=waits),
    )
    text = (await shell.mesh("task", "show", task_id)).out
    assert f"{ASKED}  May it go out?" in text
    assert '"required": ["ok"]' in text
    assert f"mesh task answer {task_id} --input JSON" in text
    waiting = text[text.index("waits for") :].splitlines()[:6]
    assert [line.removeprefix("waits for").strip() for line in waiting] == [
        f"input {ASKED} until 2026-01-04 00:00:00.000Z",
        f"child {CHILD} (writer)",
        "or",
        "timer t1 due 2026-01-04 00:00:00.000Z",
        "or",
        "signal go/1",
    ]
    assert "tokens 4" in text
    shown = (await shell.mesh("task", "show", task_id, "--json")).json
    assert shown["questions"][0]["jsonSchema"]["required"] == ["ok"]
    assert [wait["what"] for wait in shown["waits"]] == ["input", "child", "timer", "signal"]

    answer = ["task", "answer", task_id, "--input"]
    unfit = await shell.mesh(*answer, '{"ok": 1}', code=4)
    assert unfit.err == "mesh: `ok`: 1 is not of type 'boolean'; the question stays open\n"
    broken = await shell.mesh(*answer, "{", code=2)
    assert "no valid JSON" in broken.err
    (shell.folder / "yes.json").write_text('{"ok": true}', encoding="utf-8")
    answered = (await shell.mesh(*answer, "@yes.json", "--json")).json
    assert answered["questions"] == []
    second = await shell.mesh(*answer, '{"ok": false}', "--request", ASKED, code=4)
    assert "was answered already" in second.err
    nothing = await shell.mesh(*answer, "1", code=4)
    assert "no open question" in nothing.err


async def test_of_several_questions_one_is_named(shell: Shell) -> None:
    task_id = await shell.begun(question(), question(SECOND, 2))
    answer = ["task", "answer", task_id, "--input", "-"]
    several = await shell.mesh(*answer, given='{"ok": true}', code=2)
    assert ASKED in several.err
    assert SECOND in several.err
    await shell.mesh(*answer, "--request", SECOND, given='{"ok": true}')
    assert f"{ASKED}  May" in (await shell.mesh("task", "show", task_id)).out
    missing = await shell.mesh("task", "answer", task_id, code=2)
    assert "--input" in missing.err


async def test_a_signal_is_given_to_an_open_task(shell: Shell) -> None:
    task_id = await shell.begun()
    await shell.mesh("task", "signal", task_id, "go-on")
    await shell.mesh("task", "signal", task_id, "go-on", "--input", '{"by": "ada"}', "--json")
    leg = (await shell.rig.task(task_id)).leg
    assert leg is not None
    assert leg.signals == {"go-on": 2}
    for name, code, says in (("Go", 2, "a-z, 0-9"), ("go", 4, "already COMPLETED")):
        if code == 4:
            await shell.rig.act(task_id, e.Completed())
        assert says in (await shell.mesh("task", "signal", task_id, name, code=code)).err


async def test_a_held_task_says_what_to_do_and_is_released(shell: Shell) -> None:
    task_id = await shell.begun(e.Parked(ordinal=3, recorded="step `a`", asked="step `b`"))
    text = (await shell.mesh("task", "show", task_id)).out
    assert "at 3 its history has step `a`, and the handler asked for step `b`" in text
    assert "deploy a handler of `planner` that asks for what is recorded" in text
    assert f"mesh task unpark {task_id}" in text
    assert (await shell.mesh("task", "show", task_id, "--json")).json["parked"]["ordinal"] == 3
    await shell.mesh("task", "unpark", task_id, "--reason", "mended")
    again = await shell.mesh("task", "unpark", task_id, code=4)
    assert "not parked" in again.err
    assert kinds(await shell.rig.bus.history(task_id))[-1] == "unparked"


async def test_a_task_is_submitted_with_a_budget_and_a_deadline(shell: Shell) -> None:
    submit = ["task", "submit", "planner", "--text", "x", "--json"]
    task = (await shell.mesh(*submit, "--budget", "tokens=1000", "--budget", "calls=0")).json
    assert task["budget"] == {"tokens": "1000", "calls": "0"}
    assert "tokens 0 of 1000" in (await shell.mesh("task", "show", task["taskId"])).out
    for wrong in ("tokens", "tokens=-1", "tokens=1.5", f"tokens={2**63}", "Tokens=1"):
        assert "okens" in (await shell.mesh(*submit, "--budget", wrong, code=2)).err
    later = SystemClock().now() + timedelta(hours=2)
    for deadline in ("2h", later.isoformat(), later.isoformat().replace("+00:00", "Z")):
        shown = (await shell.mesh(*submit, "--deadline", deadline)).json["deadline"]
        at = datetime.fromisoformat(shown).astimezone(UTC)
        assert abs((at - later).total_seconds()) < 60


async def test_many_dead_letters_are_redriven_and_the_refused_are_named(shell: Shell) -> None:
    dead = [await shell.dead() for _ in range(3)]
    working = await shell.begun()
    some = await shell.mesh("dlq", "redrive", dead[0], working, "0" * 32, "--json", code=1)
    assert [line["taskId"] for line in some.lines] == [dead[0], working, "0" * 32]
    assert some.lines[0]["task"]["state"] == "SUBMITTED"
    assert [line["error"]["code"] for line in some.lines[1:]] == [
        "task.not_dead_lettered",
        "task.unknown",
    ]
    assert f"`{working}` is WORKING" in some.err
    assert "redriven: 1 of 3" in some.err
    one = await shell.mesh("dlq", "redrive", dead[1], "--json")
    assert one.json["taskId"] == dead[1]
    await shell.door.recorded()

    for wrong in ([], [dead[2], "--all"], ["--agent", "planner", dead[2]]):
        await shell.mesh("dlq", "redrive", *wrong, code=2)
    for options in (["--agent", "writer"], ["--since", "2030-01-01"]):
        assert "no dead letters" in (await shell.mesh("dlq", "redrive", "--all", *options)).err
    rest = await shell.mesh(
        "dlq", "redrive", "--all", "--agent", "planner", "--since", "2020-01-01"
    )
    assert "redriven: 1 of 1" in rest.err
    assert (await shell.rig.task(dead[2])).dead_letter is None


async def on_terminal(shell: Shell, reply: str, *arguments: str) -> tuple[int, str]:
    """Run one command on a terminal of its own, and type a reply; gives code and all output."""
    ours, theirs = pty.openpty()

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=shell.folder,
            env=shell.environment,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )

    os.write(ours, f"{reply}\n".encode())
    try:
        done = await to_thread.run_sync(run)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout


async def test_all_asks_before_on_a_terminal(shell: Shell) -> None:
    dead = await shell.dead()
    code, output = await on_terminal(shell, "n", "dlq", "redrive", "--all")
    assert (code, "redrive 1 dead letter?" in output) == (1, True)
    assert "nothing was redriven" in output
    assert (await shell.rig.task(dead)).dead_letter is not None
    code, output = await on_terminal(shell, "y", "dlq", "redrive", "--all")
    assert (code, "redriven: 1 of 1" in output) == (0, True)
    again = await shell.dead()
    code, output = await on_terminal(shell, "", "dlq", "redrive", "--all", "--yes")
    assert (code, "?" in output) == (0, False)
    assert (await shell.rig.task(again)).dead_letter is None
