"""The processes of a mesh: an agent, the ledger, the gateway."""

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from mesh.bootstrap.environment import config_from_environment
from mesh.bootstrap.unwrap import unwrapped
from mesh.errors import ConfigError, HandlerInvalid, MeshError, NameInvalid

if TYPE_CHECKING:
    from mesh.agent.definition import Agent
    from mesh.bootstrap.life import Life
    from mesh.config import Config

__all__ = ["load_agent", "run_agent", "run_gateway", "run_ledger"]

_FAILED, _USAGE = 1, 2
_log = logging.getLogger(__name__)

Main = Callable[["Config", "Life"], Awaitable[None]]


def run_agent(agent: "Agent") -> NoReturn:
    """Serve an agent until SIGTERM or SIGINT; ends the process.

    The settings come from the environment (`MESH_*`); see `mesh.config.Config`.
    """
    _end(_lived(agent.name, partial(_agent, agent=agent)))


def run_ledger() -> NoReturn:
    """Serve the ledger until SIGTERM or SIGINT; ends the process."""
    # The engine reads it once, when it is loaded: without it a power loss loses commits.
    os.environ["SURREAL_SYNC_DATA"] = "true"
    _end(_lived("ledger", _ledger))


def run_gateway() -> NoReturn:
    """Serve the gateway until SIGTERM or SIGINT; ends the process."""
    _end(_lived("gateway", _gateway))


def load_agent(reference: str, name: str = "") -> "Agent":
    """An agent by `module:attribute`.

    Args:
        reference: Where it is declared; the module must be importable.
        name: What the manifest calls it; "" if nobody calls it anything.

    Raises:
        ConfigError: There is no such module or attribute, it is no agent, or it is called
            otherwise.
        HandlerInvalid: One of its handlers does not fit.
    """
    from mesh.agent.definition import Agent

    module_name, _, attribute = reference.partition(":")
    agent = getattr(_loaded(reference, module_name), attribute, None)
    if agent is None:
        raise ConfigError(f"agent `{reference}`: `{module_name}` has no `{attribute}`")
    if not isinstance(agent, Agent):
        raise ConfigError(
            f"agent `{reference}`: `{attribute}` in `{module_name}` must be an `Agent`; its type"
            f" is `{type(agent).__name__}`"
        )
    if name and agent.name != name:
        raise ConfigError(
            f"agent `{reference}` is declared as `{agent.name}`, but the manifest calls it"
            f" `{name}`; write [agents.{agent.name}]"
        )
    return agent


def _loaded(reference: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except MeshError:
        raise
    # The module is the user's: whatever stops it stops this process, and is theirs to read.
    except Exception as e:
        if isinstance(e, ModuleNotFoundError) and f"{module_name}.".startswith(f"{e.name}."):
            raise ConfigError(
                f"agent `{reference}`: there is no module `{e.name}`; it must be importable from"
                f" the manifest's folder, {os.getcwd()}"
            ) from e
        raise ConfigError(f"agent `{reference}`: its module does not load\n{_where(e)}") from e


def _where(error: Exception) -> str:
    """An error with the lines that led to it, without ours and those of Python's import."""
    told = traceback.TracebackException.from_exception(error)
    theirs = [
        each
        for each in told.stack
        if each.filename not in (__file__, importlib.__file__)
        and not each.filename.startswith("<frozen importlib")
    ]
    lines = [*traceback.StackSummary.from_list(theirs).format(), *told.format_exception_only()]
    return "".join(lines).rstrip()


def _end(code: int) -> NoReturn:
    """End the process, now: everything is closed and stored.

    A handler's thread that was given up would keep it alive for as long as it likes, and the
    embedded database may abort in its own clean-up.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _lived(service: str, main: Main) -> int:
    """One process from its first to its last line; returns its exit code."""
    import anyio

    from mesh.bootstrap.life import lived, set_up_logging

    set_up_logging(service, "info")
    try:
        config = config_from_environment()
        set_up_logging(service, config.log)

        async def live() -> None:
            async with (
                lived(ready_fd=config.ready_fd, parent_fd=config.parent_fd) as life,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(life.cancel_opening, tasks.cancel_scope)
                await main(config, life)
                tasks.cancel_scope.cancel()

        with unwrapped():
            anyio.run(live)
    except MeshError as error:
        _log.error("stopped: %s", error)
        return _USAGE if isinstance(error, ConfigError | HandlerInvalid | NameInvalid) else _FAILED
    _log.info("stopped")
    return 0


async def _agent(config: "Config", life: "Life", *, agent: "Agent") -> None:
    import anyio

    from mesh.agent.ports import Limits, Ports
    from mesh.agent.worker import Worker
    from mesh.bootstrap.ports import open_ports

    async with open_ports(config, agent.name) as opened:
        ports = Ports(
            bus=opened.bus,
            blobs=opened.blobs,
            registry=opened.registry,
            clock=opened.clock,
            ids=opened.ids,
            telemetry=opened.telemetry,
            instance=opened.instance,
        )
        limits = Limits(
            concurrency=config.concurrency or Limits().concurrency,
            always_replay=config.always_replay,
        )
        if config.always_replay:
            _log.warning("every handler runs again after each thing that came back: for tests only")
        worker = Worker(agent, ports, limits)
        async with anyio.create_task_group() as tasks:
            await tasks.start(worker.run)
            life.ready()
            await life.stop.wait()
            # First: each step of the worker's end would wait for a broker that hangs.
            await opened.drop_if_mute()
            worker.stop()


async def _gateway(config: "Config", life: "Life") -> None:
    from mesh.api.gateway import open_gateway_server
    from mesh.bootstrap.ports import open_ports
    from mesh.gateway.desk import Parts, open_desk

    async with open_ports(config, "gateway") as opened:
        parts = Parts(
            bus=opened.bus,
            blobs=opened.blobs,
            registry=opened.registry,
            archive=opened.archive,
            clock=opened.clock,
            ids=opened.ids,
            telemetry=opened.telemetry,
            tenant=config.tenant,
            shards=config.shards,
            instance=opened.instance,
        )
        async with (
            open_desk(parts) as desk,
            open_gateway_server(desk, opened.ledger, config.gateway),
        ):
            life.ready()
            await life.stop.wait()
            await opened.drop_if_mute()


async def _ledger(config: "Config", life: "Life") -> None:
    import anyio

    from mesh.api.ledger import open_ledger_server
    from mesh.blob.file import FileBlobs
    from mesh.bootstrap.ports import open_ports
    from mesh.ledger.reader import Reader
    from mesh.ledger.recorder import Parts, Recorder
    from mesh.ledger.timers import Timers
    from mesh.store.surreal import open_surreal

    async with (
        open_ports(config, "ledger") as opened,
        open_surreal(
            config.store_url, tenant=config.tenant, credentials=config.store_credentials
        ) as store,
    ):
        parts = Parts(
            bus=opened.bus,
            store=store,
            blobs_from=opened.blobs,
            blobs_to=FileBlobs(config.data / "ledger" / "blobs"),
            clock=opened.clock,
            ids=opened.ids,
            tenant=config.tenant,
            instance=opened.instance,
        )
        recorder = Recorder(parts)
        async with (
            open_ledger_server(Reader(store), config.ledger),
            anyio.create_task_group() as tasks,
        ):
            for shard in [f"s{number}" for number in range(config.shards)]:
                tasks.start_soon(Timers(parts, recorder, shard=shard).run)
                tasks.start_soon(recorder.run, shard)
            life.ready()
            await life.stop.wait()
            await opened.drop_if_mute()
            tasks.cancel_scope.cancel()
