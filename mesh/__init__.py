"""Relay Mesh: independent agent services that hand work to one another."""

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Fail, Handoff, Outcome, Reject, Reply
from mesh.agent.retry import Retry
from mesh.bootstrap import connect, connect_blocking, run_agent
from mesh.errors import ChildFailed, Fatal, MeshError, QuestionClosed, Retryable, StepFailed

__all__ = [
    "Agent",
    "ChildFailed",
    "Context",
    "Fail",
    "Fatal",
    "Handoff",
    "MeshError",
    "Outcome",
    "QuestionClosed",
    "Reject",
    "Reply",
    "Retry",
    "Retryable",
    "StepFailed",
    "connect",
    "connect_blocking",
    "run_agent",
]
