"""Local processes of one mesh: started, watched, restarted, stopped."""

from mesh.bootstrap.runfile import MeshRun, ServiceRun, find_run
from mesh.supervisor.detach import bring_down, start_detached
from mesh.supervisor.plan import Plan, planned
from mesh.supervisor.run import Supervisor, end_leftovers, serve, supervised, until_signalled

__all__ = [
    "MeshRun",
    "Plan",
    "ServiceRun",
    "Supervisor",
    "bring_down",
    "end_leftovers",
    "find_run",
    "planned",
    "serve",
    "start_detached",
    "supervised",
    "until_signalled",
]
