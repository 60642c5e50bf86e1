"""The tests that the README shows are run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from mesh.bootstrap import environment

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def block(part: str) -> str:
    """The one code block that has this in it."""
    (found,) = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if part in b]
    return found


def test_the_tests_of_the_readme_pass_as_shown(tmp_path: Path) -> None:
    (tmp_path / "trip.py").write_text(block("def book_flight"), encoding="utf-8")
    (tmp_path / "test_trip.py").write_text(block("local_mesh(trip"), encoding="utf-8")
    shown = run_pytest(tmp_path)
    assert " 3 passed" in shown.stdout, shown.stdout
    (tmp_path / "trip.py").write_text(
        block("def book_flight").replace('ctx.step("flight"', 'ctx.step("train"'), encoding="utf-8"
    )
    changed = run_pytest(tmp_path, "-k", "before_this_release")
    assert "recorded='step `flight`', asked='step `train`'" in changed.stdout


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", *arguments]
    own = {name: v for name, v in environment().items() if not name.startswith(("MESH_", "PYTEST"))}
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
