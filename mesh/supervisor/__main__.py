"""The supervisor that `mesh up --detach` starts: MANIFEST DATA REPORT_FD."""

import sys
from pathlib import Path

import anyio

from mesh.bootstrap import environment
from mesh.bootstrap.runfile import MeshRun
from mesh.config import load_manifest
from mesh.errors import MeshError
from mesh.supervisor.detach import Report
from mesh.supervisor.plan import planned
from mesh.supervisor.run import serve


def main(manifest: Path, data: Path, report: Report) -> int:
    """Run the mesh of a manifest until it is told to end; returns the exit code."""
    try:
        plan = planned(
            load_manifest(manifest),
            data=data,
            folder=manifest.parent,
            manifest_path=str(manifest.resolve()),
            environment=environment(),
        )

        def changed(_: MeshRun) -> None:
            report.changed()

        def ready(_: MeshRun) -> None:
            report.ready()

        anyio.run(serve, plan, changed, ready)
    except MeshError as e:
        print(e, file=sys.stderr)  # noqa: T201 - its stderr is its log
        report.failed(e)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), Report(int(sys.argv[3]))))
