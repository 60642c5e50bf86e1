"""Settings of one process, read from a mapping such as the environment."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mesh.core.subject import check_name
from mesh.errors import ConfigError, NameInvalid

__all__ = ["PREFIX", "Config", "checked_name"]

PREFIX = "MESH_"
"""What the name of every setting begins with in the environment."""


def checked_name(name: str) -> str:
    """A tenant or agent name, unchanged; a `ValueError` says what is allowed."""
    try:
        return check_name(name)
    except NameInvalid as e:
        raise ValueError(str(e)) from e


def _checked_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("must be HOST:PORT with a port of 1 to 65535")
    return address


def _checked_nats_url(url: str) -> str:
    if not all(part.strip().startswith(("nats://", "tls://")) for part in url.split(",")):
        raise ValueError("must be nats://HOST:PORT or tls://HOST:PORT, several divided by commas")
    return url


def _checked_store(url: str) -> str:
    if not url.startswith(("surrealkv://", "ws://", "wss://")):
        raise ValueError("must be surrealkv://PATH, ws://HOST:PORT/rpc or wss://HOST:PORT/rpc")
    return url


Address = Annotated[str, AfterValidator(_checked_address)]


class Config(BaseModel):
    """Everything a process of the mesh can be told; each field is `MESH_<NAME>` outside.

    `ready_fd` and `parent_fd` are pipes that a supervisor hands down: the process writes to the
    first once it serves, and stops when the second closes, because then the supervisor is gone.
    `always_replay` is for tests of agents: every handler runs again over its record after each
    thing that came back, so that one which does not always take the same way is parked at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats_url: Annotated[str, AfterValidator(_checked_nats_url)] = Field(
        default="nats://127.0.0.1:4222", repr=False
    )
    tenant: Annotated[str, AfterValidator(checked_name)] = "default"
    shards: int = Field(default=1, ge=1, le=1024)
    replicas: int = Field(default=1, ge=1, le=5)
    data: Path = Path(".mesh")
    ledger: Address = "127.0.0.1:50052"
    gateway: Address = "127.0.0.1:50051"
    concurrency: int | None = Field(default=None, ge=1, le=10_000)
    always_replay: bool = False
    store: Annotated[str, AfterValidator(_checked_store)] = Field(default="", repr=False)
    store_user: str = ""
    store_password: str = Field(default="", repr=False)
    log: Literal["debug", "info", "warning", "error"] = "info"
    ready_fd: int | None = Field(default=None, ge=0)
    parent_fd: int | None = Field(default=None, ge=0)

    @property
    def store_url(self) -> str:
        """Where the ledger's database is: `store`, else a folder in `data`."""
        return self.store or f"surrealkv://{self.data.resolve() / 'ledger' / 'store'}"

    @property
    def store_credentials(self) -> tuple[str, str] | None:
        """User and password of the ledger's database, when it is a server that asks for them."""
        return (self.store_user, self.store_password) if self.store_user else None

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Self:
        """Read the `MESH_*` names of a mapping; empty values count as absent.

        Raises:
            ConfigError: A `MESH_*` name that is no setting, or a value that is not allowed; the
                text names the variable and what is.
        """
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX) and value
        }
        try:
            return cls.model_validate(given)
        except ValidationError as e:
            first = e.errors()[0]
            raise ConfigError(_explained(str(first["loc"][0]), first["type"], first["msg"])) from e


def _explained(field: str, problem: str, message: str) -> str:
    variable = PREFIX + field.upper()
    if problem == "extra_forbidden":
        known = [PREFIX + name.upper() for name in Config.model_fields]
        near = get_close_matches(variable, known, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(known)}"
        return f"environment: `{variable}` is no setting of the mesh{hint}"
    return f"environment: `{variable}`: {message.removeprefix('Value error, ')}"
