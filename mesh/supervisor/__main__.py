"""The supervisor that `mesh up --detach` starts: MANIFEST DATA REPORT_FD."""

import logging
import sys
from pathlib import Path

import anyio

from mesh.bootstrap import environment
from mesh.bootstrap.life import set_up_logging
from mesh.bootstrap.runfile import MeshRun
from mesh.config import load_manifest
from mesh.errors import MeshError
from mesh.supervisor.detach import Report
from mesh.supervisor.plan import planned
from mesh.supervisor.run import serve

_log = logging.getLogger("mesh.supervisor")


def main(manifest: Path, data: Path, report: Report) -> int:
    """Run the mesh of a manifest until it is told to end; returns the exit code."""
    set_up_logging("supervisor", "info")
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

        def ready(run: MeshRun) -> None:
            _log.info("%d processes serve, gateway at %s", len(run.services), run.gateway)
            report.ready()

        anyio.run(serve, plan, changed, ready)
    except MeshError as e:
        _log.error("stopped: %s", e)
        report.failed(e)
        return 1
    _log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), Report(int(sys.argv[3]))))
