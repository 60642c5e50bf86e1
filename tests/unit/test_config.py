from __future__ import annotations

from pathlib import Path

import pytest

from mesh.config import Config
from mesh.errors import ConfigError


def test_an_empty_environment_gives_the_defaults_of_one_machine() -> None:
    config = Config.from_env({"PATH": "/bin", "OTEL_SERVICE_NAME": "x"})
    assert config.nats_url == "nats://127.0.0.1:4222"
    assert config.gateway == "127.0.0.1:50051"
    assert config.store_url.startswith("surrealkv:///")
    assert config.store_url.endswith("/.mesh/ledger/store")


def test_values_are_read_and_typed() -> None:
    config = Config.from_env(
        {
            "MESH_TENANT": "acme",
            "MESH_SHARDS": "4",
            "MESH_DATA": "elsewhere",
            "MESH_CONCURRENCY": "16",
            "MESH_STORE": "ws://db:8000/rpc",
            "MESH_LOG": "debug",
            "MESH_READY_FD": "7",
            "MESH_ALWAYS_REPLAY": "1",
        }
    )
    assert (config.tenant, config.shards, config.concurrency) == ("acme", 4, 16)
    assert (config.data, config.ready_fd) == (Path("elsewhere"), 7)
    assert (config.always_replay, Config().always_replay) == (True, False)
    assert config.store_url == "ws://db:8000/rpc"


def test_an_empty_value_counts_as_absent() -> None:
    assert Config.from_env({"MESH_TENANT": ""}).tenant == "default"


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"`MESH_TENNANT`.*did you mean `MESH_TENANT`"):
        Config.from_env({"MESH_TENNANT": "acme"})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MESH_SHARDS", "0", "greater than or equal to 1"),
        ("MESH_SHARDS", "many", "integer"),
        ("MESH_TENANT", "Acme", "a-z, 0-9 and -"),
        ("MESH_GATEWAY", "localhost", "HOST:PORT"),
        ("MESH_GATEWAY", "localhost:99999", "1 to 65535"),
        ("MESH_NATS_URL", "http://x", "nats://HOST:PORT"),
        ("MESH_STORE", "file:///x", "surrealkv://PATH"),
        ("MESH_ALWAYS_REPLAY", "often", "boolean"),
        ("MESH_LOG", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as e:
        Config.from_env({name: value})
    assert f"`{name}`" in str(e.value)
    assert allowed in str(e.value)


def test_addresses_that_may_hold_passwords_are_not_shown() -> None:
    config = Config.from_env(
        {"MESH_NATS_URL": "nats://me:secret@host:1", "MESH_STORE": "ws://me:secret@db:1/rpc"}
    )
    assert "secret" not in repr(config)
