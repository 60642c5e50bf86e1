"""Every command against one running mesh."""

import json
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

import mesh
from mesh.core.event import KINDS
from tests.system.local import COMMAND, Local, running

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Generator[Local]:
    with running(Local(tmp_path_factory.mktemp("mesh"))) as started:
        yield started


def test_help_answers_at_once(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--bars"):
        pytest.skip("a deadline: measured by `make bars`; what it depends on is checked below")
    took: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([COMMAND, "--help"], check=True, capture_output=True, timeout=30)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.5


def test_help_says_what_each_option_is() -> None:
    for command in (["task", "submit"], ["events", "list"], ["up"], ["status"], ["agents", "show"]):
        done = subprocess.run(
            [COMMAND, *command, "--help"], check=True, capture_output=True, text=True
        )
        flags = [line for line in done.stdout.splitlines() if "<bool>" in line]
        # What the library itself adds.
        assert all("--help" in line for line in flags), flags
        for line in done.stdout.splitlines():
            if "--label" in line or "--priority" in line:
                assert "Kept" in line
        if command == ["events", "list"]:
            assert all(kind in done.stdout for kind in KINDS)
        if command == ["agents", "show"]:
            assert "BEHAVIOUR is the version" in done.stdout


def test_help_loads_nothing_that_is_slow_to_load() -> None:
    code = "import sys; from mesh.cli import main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"grpc", "nats", "opentelemetry", "surrealdb"}


def test_status_names_every_process(local: Local) -> None:
    status = local.ok("status", "--json").json
    services = status["services"]
    assert sorted((each["name"], each["kind"]) for each in services) == [
        ("gateway", "gateway"),
        ("greeter", "agent"),
        ("ledger", "ledger"),
        ("nats-server", "broker"),
        ("shouter", "agent"),
        ("shouter", "agent"),
    ]
    assert {each["state"] for each in services} == {"running"}
    assert len({each["pid"] for each in services}) == 6
    assert status["durability"] == "interval"
    assert [shard["shard"] for shard in status["shards"]] == ["s0"]
    text = local.ok("status").out
    assert "shouter #2" in text
    assert "power loss" in text


def test_a_task_is_submitted_awaited_and_shown(local: Local) -> None:
    done = local.ok("task", "submit", "greeter", "--input", '{"name": "ada"}', "--wait", "--json")
    task = done.json
    assert (task["state"], task["owner"], task["hops"]) == ("COMPLETED", "shouter", 1)
    assert json.loads(done.out, parse_float=str)["result"]["count"] == 1
    assert task["result"] == {"said": "HELLO ADA", "count": 1}
    shown = local.ok("task", "show", task["taskId"], "--json").json
    assert shown["result"] == task["result"]
    text = local.ok("task", "show", task["taskId"]).out
    assert "greeter → shouter (1 of at most 32 hops)" in text
    assert '"said": "HELLO ADA"' in text
    assert '"count": 1\n' in text
    listed = local.ok("task", "list", "--json", "--state", "COMPLETED").json
    assert task["taskId"] in [each["taskId"] for each in listed["tasks"]]
    assert task["taskId"] in local.ok("task", "list").out


def test_input_comes_from_a_file_or_from_stdin(local: Local) -> None:
    path = local.folder / "input.json"
    path.write_text('{"name": "file"}', encoding="utf-8")
    from_file = local.ok("task", "submit", "greeter", "--input", f"@{path}", "--wait", "--json")
    assert from_file.json["result"]["said"] == "HELLO FILE"
    given = '{"name": "stdin"}'
    piped = local.ok("task", "submit", "greeter", "--input", "-", "--wait", "--json", given=given)
    assert piped.json["result"]["said"] == "HELLO STDIN"
    text = local.ok("task", "submit", "shouter", "--text", "hey", "--wait", "--json")
    assert text.json["result"]["said"] == "HEY"


def test_without_wait_the_id_alone_is_printed(local: Local) -> None:
    task_id = local.ok("task", "submit", "greeter", "--input", '{"name": "x"}').out.strip()
    assert len(task_id) == 32
    assert local.ok("task", "show", task_id, "--json").json["taskId"] == task_id


def test_the_same_key_is_the_same_task(local: Local) -> None:
    submit = ["task", "submit", "greeter", "--idempotency-key", "one", "--json", "--input"]
    first = local.ok(*submit, '{"name": "key"}').json
    again = local.ok(*submit, '{"name": "key"}')
    assert again.json["taskId"] == first["taskId"]
    assert "before" in again.err
    other = local.mesh(*submit, '{"name": "another"}')
    assert other.code == 4
    assert "`one`" in other.err


def test_follow_prints_each_event_as_a_line(local: Local) -> None:
    submit = ["task", "submit", "greeter", "--input", '{"name": "f"}', "--follow"]
    updates = local.ok(*submit, "--json").lines
    kinds = [each["event"]["kind"] for each in updates if "event" in each]
    assert kinds[0] == "task.submitted"
    assert kinds[-1] == "task.completed"
    assert updates[-1]["task"]["state"] == "COMPLETED"
    text = local.ok(*submit).out
    assert "greeter → shouter" in text


def test_history_is_listed_replayed_and_traced(local: Local) -> None:
    submit = ["task", "submit", "greeter", "--input", '{"name": "h"}', "--wait", "--json"]
    task = local.ok(*submit).json
    task_id = task["taskId"]
    events = local.ok("events", "list", "--task", task_id, "--json").lines
    assert {"position", "eventId", "taskId", "kind", "from", "to", "occurredAt"} <= set(events[0])
    assert events[0]["kind"] == "task.submitted"
    assert events[-1]["position"] == task["position"]
    assert len(local.ok("events", "list", "--task", task_id, "--limit", "1", "--json").lines) == 1
    handed = local.ok("events", "list", "--task", task_id, "--kind", "task.handed_off", "--json")
    assert [each["to"] for each in handed.lines] == ["shouter"]

    head = local.ok("replay", task_id, "--json").json
    assert (head["state"], head["version"]) == ("COMPLETED", task["version"])
    assert len(head["stateSha256"]) == 64
    first = local.ok("replay", task_id, "--version", "1", "--json").json
    assert (first["state"], first["owner"]) == ("SUBMITTED", "greeter")
    at = local.ok("replay", task_id, "--position", events[0]["position"], "--json").json
    assert at == first
    then = local.ok("replay", task_id, "--time", events[-1]["storedAt"], "--json").json
    assert then["stateSha256"] == head["stateSha256"]
    assert head["stateSha256"] in local.ok("replay", task_id).out

    drawn = local.ok("trace", task_id, "--json").json
    assert drawn["hops"] == 1
    assert "invoke_agent shouter" in local.ok("trace", task_id).out


def test_events_are_tailed(local: Local) -> None:
    tail = subprocess.Popen(
        [COMMAND, "events", "tail", "--from", "1", "--json"],
        cwd=local.folder,
        env=local.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        local.ok("task", "submit", "greeter", "--input", '{"name": "t"}', "--wait")
        assert tail.stdout is not None
        assert '"task.submitted"' in tail.stdout.readline()
    finally:
        tail.terminate()
        tail.communicate(timeout=30)


def test_a_failed_task_gives_exit_code_1_and_its_reason(local: Local) -> None:
    failed = local.mesh("task", "submit", "greeter", "--input", '{"name": "nobody"}', "--wait")
    assert failed.code == 1
    assert "FAILED" in failed.out
    assert "there is nobody to greet" in failed.out


def test_input_that_does_not_fit_is_rejected_with_the_field(local: Local) -> None:
    submit = ["task", "submit", "greeter", "--input", '{"name": "x", "times": "often"}']
    rejected = local.mesh(*submit, "--wait", "--json")
    assert rejected.code == 1
    assert rejected.json["state"] == "REJECTED"
    assert "times" in rejected.json["error"]["message"]


def test_a_dead_letter_is_listed_shown_and_redriven(local: Local) -> None:
    submit = ["task", "submit", "greeter", "--input", '{"name": "poison"}', "--wait", "--json"]
    dead = local.mesh(*submit)
    assert (dead.code, dead.json["deadLettered"]) == (1, True)
    task_id = dead.json["taskId"]
    listed = local.ok("dlq", "list", "--json").json["deadLetters"]
    assert task_id in [each["taskId"] for each in listed]
    assert "it cannot be done" in local.ok("dlq", "show", task_id).out
    assert task_id in local.ok("dlq", "list").out
    assert local.ok("dlq", "redrive", task_id, "--json").json["taskId"] == task_id
    unknown = local.mesh("dlq", "show", "0" * 32)
    assert unknown.code == 4


def test_a_running_task_is_cancelled(local: Local) -> None:
    task_id = local.ok("task", "submit", "greeter", "--input", '{"name": "slow"}').out.strip()
    local.ok("task", "cancel", task_id, "--reason", "enough")
    with_end = ["task", "submit", "greeter", "--input", '{"name": "slow"}', "--id", task_id]
    ended = local.mesh(*with_end, "--wait", "--json")
    assert (ended.code, ended.json["state"]) == (1, "CANCELED")


def test_a_program_connects_by_the_data_folder(local: Local) -> None:
    with mesh.connect_blocking(data=local.data) as connected:
        task = connected.submit("greeter", {"name": "program"})
        assert task.result(timeout_s=30) == {"said": "HELLO PROGRAM", "count": 1}


def test_agents_are_listed_and_shown(local: Local) -> None:
    agents = local.ok("agents", "list", "--json").json["agents"]
    assert {each["card"]["name"]: len(each["instances"]) for each in agents} == {
        "greeter": 1,
        "shouter": 2,
    }
    assert "shouter" in local.ok("agents", "list").out
    shown = local.ok("agents", "show", "greeter").out
    assert "Greets." in shown
    assert '"default": 1,' in shown


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["task", "submit", "greter", "--input", "{}"], 4, "did you mean `greeter`"),
        (["task", "submit", "greter", "--input", "{}"], 4, "never registered"),
        (["task", "submit", "Greeter", "--input", "{}"], 2, "a-z, 0-9 and -"),
        (["task", "submit", "greeter", "--input", "{"], 2, "no valid JSON"),
        (["task", "submit", "greeter", "--input", "@none.json"], 2, "No such file"),
        (["task", "submit", "greeter"], 2, "--input"),
        (["task", "submit", "greeter", "--text", "x", "--deadline", "soon"], 2, "--deadline"),
        (["task", "submit", "greeter", "--text", "x", "--label", "y"], 2, "KEY=VALUE"),
        (["task", "show", "0" * 32], 4, "does not exist"),
        (["task", "show", "nonsense"], 2, "32 lower-case hex digits"),
        (["agents", "show", "nobody"], 4, "never registered"),
        (["dlq", "redrive", "0" * 32], 4, "does not exist"),
        (["replay", "0" * 32, "--version", "1", "--position", "2"], 2, "at most one"),
        (["frobnicate"], 2, "No such command"),
        (["task", "submit", "greeter", "--text", "x", "--id", "abc"], 2, "--id: `abc` is not 32"),
        (["events", "list", "--kind", "task.handedoff"], 2, "did you mean `task.handed_off`?"),
        (["events", "tail", "--kind", "spent"], 2, "did you mean `task.spent`?"),
        (["events", "list", "--kind", "zzz"], 2, "known are task.submitted, "),
    ],
)
def test_a_mistake_is_named_with_its_exit_code(
    local: Local, arguments: list[str], code: int, says: str
) -> None:
    answer = local.mesh(*arguments)
    assert says in answer.err
    assert answer.code == code


def test_a_payload_that_is_too_large_is_refused_before_it_is_sent(local: Local) -> None:
    path = local.folder / "large.json"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    answer = local.mesh("task", "submit", "greeter", "--input", f"@{path}")
    path.unlink()
    assert answer.code == 2
    assert "over the limit of 67108864 bytes" in answer.err


def test_a_second_mesh_on_the_same_folder_is_refused(local: Local) -> None:
    answer = local.mesh("up", "--detach")
    assert answer.code == 4
    assert f"(pid {local.run().pid})" in answer.err
    assert "mesh down" in answer.err
    assert local.ok("status", "--json").json["pid"] == local.run().pid


def test_another_folder_has_no_mesh(local: Local, tmp_path: Path) -> None:
    for command in (["status"], ["task", "list"], ["events", "list"]):
        answer = local.mesh(*command, "--data", str(tmp_path))
        assert answer.code == 3
        assert "no mesh is running" in answer.err
    assert local.ok("--data", str(local.data), "status", "--json").json["tenant"] == "default"
