"""For authors of agents: a mesh in one process, on a clock that only the test moves.

Of no use in production. `mesh.testing.broker` has real servers for authors of adapters.
"""

from mesh.testing.clock import ManualClock, ManualIds
from mesh.testing.divergence import first_divergence
from mesh.testing.mesh import LocalMesh, SubmitOptions, local_mesh
from mesh.testing.recording import load_histories, save_histories
from mesh.testing.task import LocalTask, RecordedStep, Waiting

__all__ = [
    "LocalMesh",
    "LocalTask",
    "ManualClock",
    "ManualIds",
    "RecordedStep",
    "SubmitOptions",
    "Waiting",
    "first_divergence",
    "load_histories",
    "local_mesh",
    "save_histories",
]
