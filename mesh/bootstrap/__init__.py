"""The composition root: the only reader of the environment, the only importer of vendor files."""

from mesh.bootstrap.environment import config_from_environment, environment

__all__ = ["config_from_environment", "environment"]
