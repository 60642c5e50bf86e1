"""From a manifest to the processes of a mesh, their addresses and their folder."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.config import AgentEntry, Manifest
from mesh.errors import Refused
from mesh.supervisor.broker import BrokerPlan, healthy, leashed, nats_server
from mesh.supervisor.port import is_free, spare_ports
from mesh.supervisor.service import Spec

if TYPE_CHECKING:
    from mesh.bootstrap.runfile import Kind

__all__ = ["Plan", "planned"]

_AGENT_GRACE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A mesh as it will run: every address is fixed, so that a restart finds it again."""

    data: Path
    folder: Path
    manifest: Manifest
    manifest_path: str
    broker: BrokerPlan
    gateway_port: int
    ledger_port: int
    environment: Mapping[str, str] = field(repr=False)

    @property
    def nats_url(self) -> str:
        """Where the log is."""
        return f"nats://127.0.0.1:{self.broker.port}"

    @property
    def gateway(self) -> str:
        """Where the front door is, HOST:PORT."""
        return f"127.0.0.1:{self.gateway_port}"

    @property
    def ledger(self) -> str:
        """Where the ledger answers, HOST:PORT."""
        return f"127.0.0.1:{self.ledger_port}"

    def check_ports(self) -> None:
        """Make sure that nobody else listens where this mesh will.

        Raises:
            Refused: Somebody does; the text says which key to change.
        """
        _check_free(self.broker.port, "nats_port")
        _check_free(self.gateway_port, "gateway_port")

    def broker_spec(self) -> Spec:
        """How nats-server runs."""
        command = [nats_server(self.environment.get("PATH")), "-c", str(self.broker.config_path)]
        return Spec(
            name="nats-server",
            kind="broker",
            command=leashed(command, os.getpid()),
            cwd=self.data,
            environment=self.environment,
            log=self.data / "logs" / "nats-server.log",
            probe=partial(healthy, self.broker.monitor_port),
        )

    def service_specs(self, parent_fd: int) -> list[Spec]:
        """How the ledger, the gateway and every replica of every agent run, in this order.

        `parent_fd` closes when the supervisor dies.
        """
        specs = [
            self._spec("ledger", [], parent_fd=parent_fd),
            self._spec("gateway", [], parent_fd=parent_fd),
        ]
        for name, entry in self.manifest.agents.items():
            for replica in range(1, entry.replicas + 1):
                arguments = [entry.agent, "--name", name]
                spec = self._spec(
                    name, arguments, parent_fd=parent_fd, entry=entry, replica=replica
                )
                specs.append(spec)
        return specs

    def _spec(
        self,
        name: str,
        arguments: list[str],
        *,
        parent_fd: int,
        entry: AgentEntry | None = None,
        replica: int = 1,
    ) -> Spec:
        kind: Kind = "agent" if entry else "gateway" if name == "gateway" else "ledger"
        settings = {
            "MESH_NATS_URL": self.nats_url,
            "MESH_TENANT": self.manifest.mesh.tenant,
            "MESH_SHARDS": str(self.manifest.mesh.shards),
            "MESH_DATA": str(self.data),
            "MESH_LEDGER": self.ledger,
            "MESH_GATEWAY": self.gateway,
            "MESH_PARENT_FD": str(parent_fd),
        }
        if entry and entry.concurrency is not None:
            settings["MESH_CONCURRENCY"] = str(entry.concurrency)
        label = name if replica == 1 else f"{name}-{replica}"
        return Spec(
            name=name,
            kind=kind,
            replica=replica,
            command=[sys.executable, "-m", "mesh.bootstrap", kind, *arguments],
            cwd=self.folder,
            environment={**self.environment, **settings},
            log=self.data / "logs" / f"{label}.log",
            grace_s=_AGENT_GRACE_S if entry else 10.0,
            inherit=(parent_fd,),
        )


def planned(
    manifest: Manifest,
    *,
    data: Path,
    folder: Path,
    manifest_path: str,
    environment: Mapping[str, str],
) -> Plan:
    """Decide on every address.

    Args:
        manifest: Which services, and on which ports.
        data: Folder that holds everything the mesh leaves behind.
        folder: Where the agents of the manifest are importable from.
        manifest_path: Where the manifest was read, for people; "" if it was not.
        environment: What the processes inherit.
    """
    mesh = manifest.mesh
    spare = spare_ports(4)
    return Plan(
        data=data.resolve(),
        folder=folder.resolve(),
        manifest=manifest,
        manifest_path=manifest_path,
        broker=BrokerPlan(
            data=data.resolve(),
            port=mesh.nats_port or spare[0],
            monitor_port=spare[1],
            sync_always=mesh.sync_always,
        ),
        gateway_port=mesh.gateway_port or spare[2],
        ledger_port=spare[3],
        environment=environment,
    )


def _check_free(port: int, key: str) -> None:
    if not is_free(port):
        raise Refused(
            f"port {port} is in use by another program; set `{key}` in [mesh] of the manifest"
            " to another port, or to 0 for any free one"
        )
