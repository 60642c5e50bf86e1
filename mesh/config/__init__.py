"""Settings of one process, and the manifest that names a whole mesh."""

from mesh.config.manifest import AgentEntry, Manifest, load_manifest
from mesh.config.settings import Config

__all__ = ["AgentEntry", "Config", "Manifest", "load_manifest"]
