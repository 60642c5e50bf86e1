"""Settings of one process, and the manifest that names a whole mesh."""

from mesh.config.manifest import AgentEntry, Manifest, MeshEntry, load_manifest
from mesh.config.settings import Config

__all__ = ["AgentEntry", "Config", "Manifest", "MeshEntry", "load_manifest"]
