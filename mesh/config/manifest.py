"""The manifest, `mesh.toml`: which services a mesh has, and how many of each.

Source: design, section 8.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mesh.config.settings import checked_name
from mesh.core.subject import RESERVED
from mesh.errors import ConfigError

__all__ = ["AgentEntry", "Manifest", "MeshEntry", "load_manifest"]


def _checked_agent_name(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"`{name}` is reserved; name the agent otherwise")
    return checked_name(name)


def _checked_attribute(text: str) -> str:
    module, _, attribute = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise ValueError('must be "module:attribute", such as "services.reader.agent:reader"')
    return text


class AgentEntry(BaseModel):
    """One agent: where it is declared, how many processes, how many deliveries at a time each.

    `concurrency` None leaves it to the agent's own declaration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    agent: Annotated[str, AfterValidator(_checked_attribute)]
    replicas: int = Field(default=1, ge=0, le=1000)
    concurrency: int | None = Field(default=None, ge=1, le=10_000)


class MeshEntry(BaseModel):
    """What holds for the whole mesh; a port of 0 means any free one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tenant: Annotated[str, AfterValidator(checked_name)] = "default"
    shards: int = Field(default=1, ge=1, le=1024)
    nats_port: int = Field(default=4222, ge=0, le=65535)
    gateway_port: int = Field(default=50051, ge=0, le=65535)
    sync_always: bool = True


class Manifest(BaseModel):
    """A whole mesh, as `mesh up` starts it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    mesh: MeshEntry = MeshEntry()
    agents: dict[Annotated[str, AfterValidator(_checked_agent_name)], AgentEntry] = Field(
        default_factory=dict[str, AgentEntry]
    )


def load_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ConfigError: There is none, it is no TOML, or a key or value is not allowed; the text
            names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"cannot read the manifest {path}: {reason}; name one with --manifest FILE"
        ) from e
    try:
        return Manifest.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as e:
        line = re.search(r"at line (\d+)", str(e))
        # tomllib says "at end of document" when it ran out of text.
        number = int(line[1]) if line else len(text.splitlines())
        raise ConfigError(f"{path}:{number}: no valid TOML: {e}") from e
    except ValidationError as e:
        problems = [_Problem.of(error["loc"], error["type"], error["msg"]) for error in e.errors()]
        lines = [f"{path}:{line_of(text, p.keys)}: {p.message}" for p in problems]
        raise ConfigError("\n".join(lines)) from e


@dataclass(frozen=True, slots=True)
class _Problem:
    keys: tuple[str, ...]
    message: str

    @classmethod
    def of(cls, loc: Sequence[int | str], problem: str, message: str) -> "_Problem":
        # pydantic marks an error in a dict's key itself with a last part "[key]".
        keys = tuple(str(part) for part in loc if part != "[key]")
        dotted = ".".join(keys)
        if problem == "extra_forbidden":
            return cls(keys, f"`{dotted}` is no key of the manifest{_hint(keys)}")
        return cls(keys, f"`{dotted}`: {message.removeprefix('Value error, ')}")


def _hint(keys: tuple[str, ...]) -> str:
    match keys[:-1]:
        case ():
            known = list(Manifest.model_fields)
        case ("mesh",):
            known = list(MeshEntry.model_fields)
        case _:
            known = list(AgentEntry.model_fields)
    near = get_close_matches(keys[-1], known, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known here are {', '.join(known)}"


_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*"""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, keys: Sequence[str]) -> int:
    """Line of a key in TOML text, 1-based; of the nearest table around it if it is not written.

    A scan of the lines, because `tomllib` keeps none: good for tables and plain keys, and for
    what stands in an inline table it gives the line where that begins.
    """
    best, best_depth, table = 1, 0, tuple[str, ...]()
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        if bare.startswith("["):
            written = _parts(bare.lstrip("["))
            table = written
        elif "=" in bare and not bare.startswith("#"):
            written = table + _parts(bare)
        else:
            continue
        depth = len(written)
        if depth > best_depth and written == tuple(keys[:depth]):
            best, best_depth = number, depth
    return best


def _parts(line: str) -> tuple[str, ...]:
    key = _KEY.match(line)
    return tuple(part.strip("\"'") for part in _PART.findall(key[1])) if key else ()
