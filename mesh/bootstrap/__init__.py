"""The composition root: the only reader of the environment, the only importer of vendor files."""

from mesh.bootstrap.connection import connect, connect_blocking, gateway_address
from mesh.bootstrap.environment import config_from_environment, environment
from mesh.bootstrap.service import run_agent, run_gateway, run_ledger

__all__ = [
    "config_from_environment",
    "connect",
    "connect_blocking",
    "environment",
    "gateway_address",
    "run_agent",
    "run_gateway",
    "run_ledger",
]
