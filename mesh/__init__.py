"""Relay Mesh: independent agent services that hand work to one another."""

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Fail, Handoff, Outcome, Reject, Reply
from mesh.bootstrap import connect, connect_blocking, run_agent
from mesh.errors import Fatal, MeshError, Retryable

__all__ = [
    "Agent",
    "Context",
    "Fail",
    "Fatal",
    "Handoff",
    "MeshError",
    "Outcome",
    "Reject",
    "Reply",
    "Retryable",
    "connect",
    "connect_blocking",
    "run_agent",
]
