"""Where an event stands on the bus: `mesh.<tenant>.<shard>.<to>.<task>.<class>.<from>`.

Source: design, section 1.
"""

import re
from dataclasses import dataclass
from hashlib import sha256

from mesh.errors import NameInvalid

__all__ = ["INFORMING", "LOG", "MOVING", "RESERVED", "Subject", "check_name", "shard_of"]

LOG = "log"
"""Addressee of a fact that nobody must act on."""
MOVING, INFORMING = "m", "i"
RESERVED = frozenset({LOG, "gateway", "ledger"})
"""Names that no agent may take."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_ID = re.compile(r"[0-9a-f]{32}")
_SHARD = re.compile(r"s(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Subject:
    """One event's address; `str()` gives the subject, `parse` reads it."""

    tenant: str
    shard: str
    to: str
    task_id: str
    event_class: str
    sender: str

    def __str__(self) -> str:
        return (
            f"mesh.{self.tenant}.{self.shard}.{self.to}"
            f".{self.task_id}.{self.event_class}.{self.sender}"
        )

    @classmethod
    def parse(cls, text: str) -> "Subject":
        """Read a subject.

        Raises:
            NameInvalid: It is not of the form above.
        """
        parts = text.split(".")
        if len(parts) != 7 or parts[0] != "mesh":
            raise NameInvalid(f"subject `{text}` is not `mesh.tenant.shard.to.task.class.from`")
        subject = cls(*parts[1:])
        for name in (subject.tenant, subject.to, subject.sender):
            check_name(name)
        if not _ID.fullmatch(subject.task_id) or not _SHARD.fullmatch(subject.shard):
            raise NameInvalid(f"subject `{text}` has a malformed task id or shard")
        if subject.event_class not in (MOVING, INFORMING):
            raise NameInvalid(f"subject `{text}` has no class `m` or `i`")
        return subject

    @staticmethod
    def of_tenant(tenant: str, shard: str) -> str:
        """Filter for everything in one shard of a tenant."""
        return f"mesh.{tenant}.{shard}.>"

    @staticmethod
    def of_agent(tenant: str, shard: str, agent: str) -> str:
        """Filter for one agent's deliveries in one shard."""
        return f"mesh.{tenant}.{shard}.{agent}.>"

    @staticmethod
    def of_task(tenant: str, shard: str, task_id: str) -> str:
        """Filter for one task's whole history."""
        return f"mesh.{tenant}.{shard}.*.{task_id}.>"

    @staticmethod
    def fence(tenant: str, shard: str, task_id: str) -> str:
        """Filter for the events that move one task: what an append is fenced on."""
        return f"mesh.{tenant}.{shard}.*.{task_id}.{MOVING}.*"


def check_name(name: str) -> str:
    """Return a tenant or agent name unchanged.

    Raises:
        NameInvalid: It does not match `[a-z][a-z0-9-]{0,62}`.
    """
    if not _NAME.fullmatch(name):
        raise NameInvalid(
            f"name `{name}` must be 1 to 63 characters of a-z, 0-9 and -, beginning with a letter"
        )
    return name


def shard_of(root_task_id: str, shards: int) -> str:
    """The shard a whole task tree lives in.

    Args:
        root_task_id: Id of the tree's root, 32 hex digits.
        shards: How many shards the tenant has, count, >= 1, fixed at creation.

    Returns:
        `s0` … `s<shards-1>`.
    """
    return f"s{int.from_bytes(sha256(root_task_id.encode()).digest()[:8], 'big') % shards}"
