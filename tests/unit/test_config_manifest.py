from __future__ import annotations

from pathlib import Path

import pytest

from mesh.config import load_manifest
from mesh.config.manifest import line_of
from mesh.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
GOOD = """\
[mesh]
tenant = "acme"
shards = 2

[agents.reader]
agent = "services.reader.agent:reader"
replicas = 3
concurrency = 16
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mesh.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as e:
        load_manifest(written(folder, text))
    return str(e.value).replace(str(folder), "")


def test_a_manifest_is_read(tmp_path: Path) -> None:
    manifest = load_manifest(written(tmp_path, GOOD))
    assert (manifest.mesh.tenant, manifest.mesh.shards) == ("acme", 2)
    assert (manifest.mesh.nats_port, manifest.mesh.gateway_port) == (4222, 50051)
    reader = manifest.agents["reader"]
    assert (reader.replicas, reader.concurrency) == (3, 16)


def test_the_manifest_of_this_repository_names_its_four_agents() -> None:
    manifest = load_manifest(REPOSITORY / "mesh.toml")
    assert list(manifest.agents) == ["planner", "reader", "writer", "critic"]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("replicas = 3", "replica = 3", 7, "`agents.reader.replica` is no key"),
        ("replicas = 3", "replica = 3", 7, "did you mean `replicas`?"),
        ("replicas = 3", "replicas = -1", 7, "`agents.reader.replicas`: "),
        ("replicas = 3", 'replicas = "3"', 7, "valid integer"),
        ('"services.reader.agent:reader"', '"reader"', 6, "module:attribute"),
        ('agent = "services.reader.agent:reader"\n', "", 5, "Field required"),
        ("[agents.reader]", "[agents.Reader]", 5, "a-z, 0-9 and -"),
        ("[agents.reader]", "[agents.ledger]", 5, "reserved"),
        ("shards = 2", "shards = 2\nnats_port = 70000", 4, "`mesh.nats_port`"),
        ("shards = 2", "shards = 2\nnats = 4222", 4, "did you mean `nats_port`?"),
        ("[mesh]", "[mash]", 1, "`mash` is no key of the manifest; did you mean `mesh`?"),
        ('tenant = "acme"', "tenant = acme", 2, "no valid TOML"),
    ],
)
def test_a_wrong_manifest_is_refused_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in GOOD
    text = complaint(tmp_path, GOOD.replace(old, new))
    assert text.startswith(f"/mesh.toml:{line}: ")
    assert says in text


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    text = complaint(tmp_path, GOOD.replace("shards = 2", "shard = 2").replace("= 16", "= 0"))
    assert [part.split(":")[1] for part in text.splitlines()] == ["3", "8"]


def test_a_missing_manifest_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file.*--manifest"):
        load_manifest(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "keys", "line"),
    [
        ("a = 1\n[b]\nc = 2\n", ("b", "c"), 3),
        ("[a]\nx = 1\n[b]\nx = 2\n", ("b", "x"), 4),
        ("# b.c = 1\nb.c = 1\n", ("b", "c"), 2),
        ('[agents]\n"odd one".replicas = 1\n', ("agents", "odd one", "replicas"), 2),
        ("[agents]\nreader = { replicas = 0 }\n", ("agents", "reader", "replicas"), 2),
        ("[agents.reader]\n", ("agents", "reader", "agent"), 1),
        ("\n\n", ("mesh",), 1),
    ],
)
def test_the_line_of_a_key_is_found(text: str, keys: tuple[str, ...], line: int) -> None:
    assert line_of(text, keys) == line
