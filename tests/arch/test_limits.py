from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "mesh" / "wire" / "v1"
SOURCES = [
    path
    for folder in ("mesh", "services", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if GENERATED not in path.parents
]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def test_the_sources_are_found() -> None:
    assert Path(__file__) in SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    too_long = {
        node.name: lines
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert too_long == {}
