"""The `mesh` command."""

from mesh.cli.app import main

__all__ = ["main"]
