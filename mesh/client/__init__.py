"""What Python programs use a mesh with: submit, watch, read, cancel; async, and a blocking twin."""

from mesh.client.blocking import BlockingMesh, BlockingTask, connect_blocking
from mesh.client.handle import TaskHandle
from mesh.client.mesh import EventFilter, Mesh, SubmitOptions, open_mesh
from mesh.client.output import Output, OutputReader

__all__ = [
    "BlockingMesh",
    "BlockingTask",
    "EventFilter",
    "Mesh",
    "Output",
    "OutputReader",
    "SubmitOptions",
    "TaskHandle",
    "connect_blocking",
    "open_mesh",
]
