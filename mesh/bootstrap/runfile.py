"""How a mesh on this machine is found: `mesh.json` in its data folder, kept by its supervisor."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mesh.bootstrap.process import ProcessRef
from mesh.errors import ConfigError

__all__ = ["Kind", "MeshRun", "ServiceRun", "State", "find_run", "read_run", "run_path"]

Kind = Literal["agent", "ledger", "gateway", "broker"]
State = Literal["starting", "running", "backoff", "stopping", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRun:
    """One process of a mesh; `pid` is 0 while there is none, `since` ISO 8601, UTC."""

    name: str
    kind: Kind
    replica: int
    pid: int
    mark: str
    state: State
    restarts: int
    since: str
    log: str

    @property
    def label(self) -> str:
        """What people call it: the name, and which replica unless it is the first."""
        return self.name if self.replica == 1 else f"{self.name} #{self.replica}"

    @property
    def process(self) -> ProcessRef:
        """Which process that is."""
        return ProcessRef(self.pid, self.mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshRun:
    """A mesh that was started on this machine, whether or not it still runs."""

    pid: int
    mark: str
    started_at: str
    tenant: str
    manifest: str
    nats_url: str
    monitor_url: str
    gateway: str
    ledger: str
    sync_always: bool
    services: tuple[ServiceRun, ...] = field(default=())

    @property
    def supervisor(self) -> ProcessRef:
        """The process that looks after it."""
        return ProcessRef(self.pid, self.mark)

    @property
    def ports(self) -> tuple[int, ...]:
        """Where its processes listen on this machine."""
        addresses = (self.nats_url, self.monitor_url, self.gateway, self.ledger)
        return tuple(int(address.rpartition(":")[2]) for address in addresses)

    def write(self, data: Path) -> None:
        """Replace the file in one step: a reader sees the old or the new one."""
        draft = run_path(data).with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(draft, run_path(data))


def run_path(data: Path) -> Path:
    """Where a data folder's run file is."""
    return data / "mesh.json"


def read_run(data: Path) -> MeshRun | None:
    """What the last supervisor of a data folder wrote, None if it cleaned up behind itself.

    Raises:
        ConfigError: The file is not one of ours, or cannot be read.
    """
    try:
        # Any: JSON; the constructors check the names of the fields.
        content: dict[str, Any] = json.loads(run_path(data).read_text(encoding="utf-8"))
        content["services"] = tuple(ServiceRun(**service) for service in content["services"])
        return MeshRun(**content)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise ConfigError(
            f"cannot look into the data folder {data}: {e.strerror}; --data DIR names another"
        ) from e
    except (ValueError, TypeError, KeyError) as e:
        raise ConfigError(
            f"{run_path(data)} is no run file of this version ({e}); if no mesh runs there,"
            " delete it"
        ) from e


def find_run(data: Path) -> MeshRun | None:
    """The mesh that runs on a data folder now, None if none does.

    Raises:
        ConfigError: The run file is not one of ours.
    """
    run = read_run(data)
    return run if run is not None and run.supervisor.alive else None
