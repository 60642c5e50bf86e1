from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("uv", "runtime", "dev", "bench")
PIN = re.compile(r"^([a-z0-9-]+)==([^\s;]+)( ; .+?)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def lines_of(name: str) -> list[str]:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def pins_of(name: str) -> set[tuple[str, str, str]]:
    """Name, version and marker of every pin in one requirements file."""
    matches = (PIN.match(line) for line in lines_of(name))
    return {(m[1], m[2], m[3] or "") for m in matches if m}


@pytest.mark.parametrize("name", NAMES)
def test_pins_hold_exact_versions_and_hashes_and_nothing_else(name: str) -> None:
    # An address would tie the project to one package index.
    assert [x for x in lines_of(name) if not PIN.match(x) and not HASH.match(x)] == []
    assert pins_of(name) != set()


@pytest.mark.parametrize("name", ["runtime", "bench"])
def test_the_files_agree_on_versions(name: str) -> None:
    versions = {(package, marker): version for package, version, marker in pins_of("dev")}
    differing = {
        (package, version)
        for package, version, marker in pins_of(name)
        if versions.get((package, marker), version) != version
    }
    assert differing == set()


def test_every_dependency_of_the_package_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=\[;]", text)[0] for text in project["dependencies"]}
    assert declared - {package for package, _, _ in pins_of("runtime")} == set()
