"""Up, down and everything that can go wrong between them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

import pytest

from mesh.bootstrap.process import ProcessRef
from mesh.bootstrap.runfile import read_run
from mesh.supervisor import MeshRun
from tests.system.local import COMMAND, MANIFEST, TIMEOUT_S, Local, running

pytestmark = pytest.mark.live


@pytest.fixture
def local(tmp_path: Path) -> Generator[Local]:
    mesh = Local(tmp_path)
    yield mesh
    mesh.mesh("down")


@pytest.fixture
def taken_port() -> Generator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def free_port() -> int:
    """Below the ports of outgoing connections, one of which could take it."""
    for port in range(12_000, 20_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def until(condition: Callable[[], bool], what: str) -> None:
    """The processes are not ours, so nobody tells us: look until it is so."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.05)


def processes(run: MeshRun) -> list[ProcessRef]:
    return [run.supervisor, *(each.process for each in run.services)]


def greet(local: Local) -> str:
    submit = ["task", "submit", "greeter", "--input", '{"name": "x"}', "--wait", "--json"]
    return local.ok(*submit).json["result"]["said"]


def test_up_and_down_leave_only_the_data_folder(local: Local) -> None:
    before = {path.name for path in local.folder.iterdir()}
    answer = local.ok("up", "--detach")
    run = local.run()
    assert run.gateway in answer.err
    assert str(Path(".mesh") / "logs") in answer.err
    assert all(each.process.alive for each in run.services)
    local.ok("down")
    assert not any(each.alive for each in processes(run))
    for each in run.services:
        if each.kind != "broker":
            assert Path(each.log).read_text(encoding="utf-8").endswith(": stopped\n")
    for address in (run.gateway, run.ledger, run.nats_url.removeprefix("nats://")):
        host, _, port = address.partition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5).close()
    after = {path.name for path in local.folder.iterdir()} - {"__pycache__"}
    assert after - before == {".mesh"}
    assert local.mesh("status").code == 3
    again = local.ok("down")
    assert "no mesh is running" in again.err


def test_what_was_recorded_is_there_after_a_restart(local: Local) -> None:
    with running(local):
        submit = ["task", "submit", "greeter", "--input", '{"name": "x"}', "--wait", "--json"]
        task_id = local.ok(*submit).json["taskId"]
        before = local.ok("replay", task_id, "--json").json
    with running(local):
        assert local.ok("replay", task_id, "--json").json == before
        assert greet(local) == "HELLO X"


@pytest.mark.parametrize("victim", ["greeter", "ledger", "gateway", "nats-server"])
def test_what_dies_is_restarted_and_works_on(local: Local, victim: str) -> None:
    with running(local):
        assert greet(local) == "HELLO X"
        killed = next(each for each in local.run().services if each.name == victim)
        os.kill(killed.pid, signal.SIGKILL)

        def is_back() -> bool:
            now = next(each for each in local.run().services if each.name == victim)
            return now.pid not in (0, killed.pid) and now.state == "running"

        until(is_back, f"{victim} runs again")
        assert greet(local) == "HELLO X"
        services = local.ok("status", "--json").json["services"]
        assert {each["name"]: each["restarts"] for each in services}[victim] == 1
        log = (local.data / "logs" / "supervisor.log").read_text(encoding="utf-8")
        assert f"{victim} ended with signal 9; restart in 0 s" in log


def test_status_answers_although_the_gateway_hangs(local: Local) -> None:
    with running(local):
        gateway = next(each for each in local.run().services if each.kind == "gateway")
        os.kill(gateway.pid, signal.SIGSTOP)
        try:
            status = local.ok("status", "--json").json
            assert "did not answer" in status["gatewayError"]
            assert "did not answer" in local.ok("status").out
        finally:
            os.kill(gateway.pid, signal.SIGCONT)


def test_nothing_outlives_a_killed_supervisor(local: Local) -> None:
    local.ok("up", "--detach")
    run = local.run()
    os.kill(run.pid, signal.SIGKILL)
    until(lambda: not any(each.alive for each in processes(run)), "all processes are gone")
    assert local.mesh("status").code == 3
    with running(local):
        assert greet(local) == "HELLO X"


def test_what_a_killed_supervisor_left_is_ended_by_the_next_up(local: Local) -> None:
    text = MANIFEST.replace("gateway_port = 0", f"gateway_port = {free_port()}")
    (local.folder / "mesh.toml").write_text(text, encoding="utf-8")
    local.ok("up", "--detach")
    run = local.run()
    left = [each for each in run.services if each.name in ("greeter", "gateway")]
    # A stopped process cannot follow its supervisor, and this gateway keeps its port.
    for each in left:
        os.kill(each.pid, signal.SIGSTOP)
    os.kill(run.pid, signal.SIGKILL)
    until(lambda: not run.supervisor.alive, "the supervisor is gone")
    assert all(each.process.alive for each in left)
    with running(local):
        assert not any(each.process.alive for each in left)
        assert greet(local) == "HELLO X"


def test_down_ends_what_a_killed_supervisor_left(local: Local) -> None:
    local.ok("up", "--detach")
    run = local.run()
    greeter = next(each for each in run.services if each.name == "greeter")
    os.kill(greeter.pid, signal.SIGSTOP)
    os.kill(run.pid, signal.SIGKILL)
    until(lambda: not run.supervisor.alive, "the supervisor is gone")
    answer = local.ok("down")
    assert "greeter" in answer.err
    assert not any(each.alive for each in processes(run))
    assert read_run(local.data) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_in_the_foreground_ends_when_it_is_told(local: Local, number: signal.Signals) -> None:
    up = subprocess.Popen(
        [COMMAND, "up"],
        cwd=local.folder,
        env=local.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stderr is not None
        said: list[str] = []
        while "mesh: ready" not in (said or [""])[-1]:
            said.append(up.stderr.readline())
            assert said[-1], said
        run = local.run()
        assert greet(local) == "HELLO X"
        up.send_signal(number)
        _, rest = up.communicate(timeout=TIMEOUT_S)
        assert up.returncode == 0, rest
        for each in run.services:
            if each.kind != "broker":
                assert Path(each.log).read_text(encoding="utf-8").endswith(": stopped\n")
        assert not any(each.alive for each in processes(run))
    finally:
        up.kill()
        up.communicate()


@pytest.mark.parametrize("key", ["nats_port", "gateway_port"])
def test_a_port_in_use_is_named_with_the_key_to_change(
    local: Local, taken_port: int, key: str
) -> None:
    text = MANIFEST.replace(f"{key} = 0", f"{key} = {taken_port}")
    (local.folder / "mesh.toml").write_text(text, encoding="utf-8")
    answer = local.mesh("up", "--detach")
    assert answer.code == 4
    assert f"port {taken_port} is in use" in answer.err
    assert f"`{key}`" in answer.err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("replicas = 2", "replicas = two", "mesh.toml:12: no valid TOML"),
        ("replicas = 2", "replica = 2", "mesh.toml:12: `agents.shouter.replica` is no key"),
        ("replicas = 2", "replicas = -2", "mesh.toml:12: `agents.shouter.replicas`"),
        ("hello:greeter", "goodbye:greeter", "there is no module `goodbye`"),
        ("hello:greeter", "hello:nobody", "`hello` has no `nobody`"),
        ("hello:greeter", "hello:shouter", "declared as `shouter`"),
        ("hello:greeter", "hello:AGE", "must be an `Agent`; its type is `int`"),
    ],
)
def test_a_wrong_manifest_is_named_and_starts_nothing(
    local: Local, old: str, new: str, says: str
) -> None:
    text = MANIFEST.replace(old, new)
    (local.folder / "mesh.toml").write_text(text, encoding="utf-8")
    answer = local.mesh("up", "--detach")
    assert answer.code == 2
    assert says in answer.err
    assert local.mesh("status").code == 3


def test_a_module_that_does_not_load_is_told_once_and_only_its_own_lines(local: Local) -> None:
    module = local.folder / "hello.py"
    good = module.read_text(encoding="utf-8")
    module.write_text(f"{good}\nfirst = undefined_name\n", encoding="utf-8")
    answer = local.mesh("up", "--detach")
    assert answer.code == 2
    assert "NameError: name 'undefined_name' is not defined" in answer.err
    assert 'hello.py", line' in answer.err
    assert "importlib" not in answer.err
    # What an earlier start wrote is in the same log file, and of no interest now.
    module.write_text(f"{good}\nsecond = (\n", encoding="utf-8")
    answer = local.mesh("up", "--detach")
    assert answer.code == 2
    assert "SyntaxError" in answer.err
    assert "undefined_name" not in answer.err
    log = (local.data / "logs" / "greeter.log").read_text(encoding="utf-8")
    assert "undefined_name" in log
    module.write_text("import nowhere_to_be_found\n", encoding="utf-8")
    answer = local.mesh("up", "--detach")
    assert answer.code == 2
    assert "No module named 'nowhere_to_be_found'" in answer.err
    assert 'hello.py", line 1' in answer.err


@pytest.mark.parametrize("command", [["up", "--detach"], ["up"], ["demo"], ["status"], ["down"]])
def test_a_data_folder_that_cannot_be_is_one_sentence(local: Local, command: list[str]) -> None:
    (local.folder / "file").write_text("", encoding="utf-8")
    answer = local.mesh("--data", "file", *command)
    assert answer.code == 2
    assert "data folder" in answer.err
    assert "Not a directory" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_data_folder_that_cannot_be_made_is_one_sentence(local: Local) -> None:
    answer = local.mesh("--data", "/proc/x", "up")
    assert answer.code == 2
    assert "cannot make the data folder /proc/x" in answer.err
    assert answer.err.count("\n") == 1


def test_every_replica_is_named_while_it_starts(local: Local) -> None:
    up = subprocess.Popen(
        [COMMAND, "up"], cwd=local.folder, env=local.environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert up.stderr is not None
        said: list[str] = []
        while "mesh: ready" not in (said or [""])[-1]:
            said.append(up.stderr.readline())
            assert said[-1], said
        starting = [line.split(" starting")[0] for line in said if " starting" in line]
        assert "mesh: shouter" in starting
        assert "mesh: shouter #2" in starting
        assert len(starting) == len(set(starting))
    finally:
        up.terminate()
        up.communicate(timeout=TIMEOUT_S)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    local = Local(tmp_path)
    answer = local.mesh("up", "--manifest", "none.toml")
    assert answer.code == 2
    assert "none.toml" in answer.err
    assert not local.data.exists()


def test_a_wrong_setting_in_the_environment_is_named(local: Local) -> None:
    local.environment["MESH_TENNANT"] = "acme"
    answer = local.mesh("status")
    assert answer.code == 2
    assert "did you mean `MESH_TENANT`" in answer.err
    del local.environment["MESH_TENNANT"]
