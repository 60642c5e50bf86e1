"""Streams and consumers: made when they are missing, compared when they are there.

Source: design, section 1; every field that decides what is kept, refused or delivered is compared.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import cast

import anyio

from mesh.bus.jetstream.replies import Api, Replies
from mesh.bus.port import Backlog, LogInfo
from mesh.core.subject import Subject
from mesh.errors import MeshError, StreamDrifted, Unavailable

__all__ = [
    "agent_backlog",
    "agent_consumer",
    "consumer_name",
    "ensure_consumer",
    "ensure_streams",
    "log_info",
    "stream_name",
]

_SECOND_NS = 1_000_000_000
_SHARDS = "mesh-shards"
_NO_STREAM, _NO_CONSUMER = 10059, 10014
_TRY_S = 0.1


def stream_name(tenant: str, shard: str) -> str:
    """Name of a shard's stream."""
    return f"MESH_{tenant}_{shard}"


def consumer_name(tenant: str, agent: str) -> str:
    """Name of the durable consumer that an agent's replicas share, in each shard."""
    return f"{tenant}_{agent}"


async def ensure_streams(
    replies: Replies, tenant: str, shards: int, *, limits: Mapping[str, int], deadline: float
) -> None:
    """Make the streams of a tenant, or check those that are there.

    Several processes may do so at once. `limits` (`num_replicas`, `max_bytes`) are set at creation
    and then the operator's business: only fewer replicas than asked for are reported.

    Raises:
        StreamDrifted: One is there with settings the mesh cannot work with; each is named.
        Unavailable: JetStream does not answer in time.
    """
    for n in range(shards):
        shard = f"s{n}"
        name = stream_name(tenant, shard)
        wanted: dict[str, object] = {
            "name": name,
            "subjects": [Subject.of_tenant(tenant, shard)],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_age": 0,
            "max_msgs_per_subject": -1,
            "max_consumers": -1,
            "max_msg_size": -1,
            "allow_direct": True,
            "allow_atomic": True,
            "duplicate_window": 120 * _SECOND_NS,
        }
        made = {"metadata": {_SHARDS: str(shards)}}
        found = await _ensured(
            replies,
            f"STREAM.INFO.{name}",
            f"STREAM.CREATE.{name}",
            {**wanted, **limits, **made},
            deadline,
        )
        differences = _differences(wanted, found)
        differences += _strangers(found)
        there = _metadata(found).get(_SHARDS)
        if there != str(shards):
            differences.append(f"number of shards: found {there}, wanted {shards}")
        replicas = int(str(found.get("num_replicas", 1)))
        if replicas < limits["num_replicas"]:
            differences.append(f"num_replicas: found {replicas}, wanted {limits['num_replicas']}")
        _refuse(f"stream `{name}`", differences)


async def ensure_consumer(
    replies: Replies, stream: str, config: Mapping[str, object], deadline: float
) -> None:
    """Make a durable consumer, or check the one that is there.

    Raises:
        StreamDrifted: It is there with other settings; each is named.
        Unavailable: JetStream does not answer in time.
    """
    name = config["name"]
    request = {"stream_name": stream, "config": config, "action": "create"}
    found = await _ensured(
        replies,
        f"CONSUMER.INFO.{stream}.{name}",
        f"CONSUMER.CREATE.{stream}.{name}",
        request,
        deadline,
    )
    _refuse(f"consumer `{name}` of stream `{stream}`", _differences(config, found))


def agent_consumer(tenant: str, shard: str, agent: str, ack_wait_s: float) -> dict[str, object]:
    """Settings of the consumer that an agent's replicas share."""
    name = consumer_name(tenant, agent)
    return {
        "name": name,
        "durable_name": name,
        "filter_subject": Subject.of_agent(tenant, shard, agent),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_s * _SECOND_NS),
        "max_deliver": -1,
        "max_ack_pending": 65_536,
        "max_waiting": 2_048,
        "replay_policy": "instant",
    }


async def log_info(replies: Replies, tenant: str, shard: str, deadline: float) -> LogInfo:
    """How a shard's log stands, at its leader.

    Raises:
        Unavailable: The leader does not answer in time, or the stream is gone.
    """
    answer = await replies.api(f"STREAM.INFO.{stream_name(tenant, shard)}", {}, deadline)
    if answer.error_code:
        raise Unavailable(f"log of shard `{shard}`: {answer.error}")
    state = answer["state"]
    last = int(state["last_seq"])
    return LogInfo(
        shard=shard,
        first=int(state["first_seq"]) if state["messages"] else last + 1,
        last=last,
        created_at=instant(answer["created"]),
        replicas=int(answer["config"]["num_replicas"]),
    )


async def agent_backlog(replies: Replies, name: str, stream: str, deadline: float) -> Backlog:
    """What is undone in one shard of an agent's consumer; nothing if it was never made.

    Raises:
        Unavailable: JetStream does not answer in time.
    """
    answer = await replies.api(f"CONSUMER.INFO.{stream}.{name}", {}, deadline)
    if answer.error_code == _NO_CONSUMER:
        return Backlog()
    if answer.error_code:
        raise Unavailable(f"consumer `{name}` of stream `{stream}`: {answer.error}")
    return Backlog(int(answer["num_pending"]), int(answer["num_ack_pending"]))


def instant(text: str) -> datetime:
    """A time as NATS writes it: up to nine digits of a second, trailing zeros left out."""
    head, dot, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{rest[:6]:0<6}+00:00" if dot else f"{head}+00:00")


async def _ensured(
    replies: Replies, info: str, create: str, request: Mapping[str, object], deadline: float
) -> dict[str, object]:
    """The settings of what is there, made first if nothing was."""
    reason: MeshError | str = "no answer"
    while anyio.current_time() < deadline:
        try:
            answer = await replies.api(info, {}, min(deadline, anyio.current_time() + 2))
            if answer.error_code in (_NO_STREAM, _NO_CONSUMER):
                # Another process may be quicker: then this fails, and the next round compares.
                made = await replies.api(create, request, min(deadline, anyio.current_time() + 5))
                answer = made if not made.error_code else answer
                reason = made.error if made.error_code else reason
                _refuse_overlap(create, made)
            elif answer.error_code:
                reason = answer.error
            if not answer.error_code:
                return dict(answer["config"])
        except Unavailable as error:
            if replies.connection.is_closed:
                raise
            reason = error
        await anyio.sleep(_TRY_S)
    raise Unavailable(f"{create.removeprefix('$JS.API.')}: {reason}")


def _refuse_overlap(create: str, answer: Api) -> None:
    overlaps = 10065
    if answer.error_code == overlaps:
        raise StreamDrifted(f"{create}: another stream has these subjects: {answer.error}")


def _metadata(found: Mapping[str, object]) -> Mapping[object, object]:
    metadata = found.get("metadata")
    # What JSON holds here is text, but nothing in the type says so.
    return cast("Mapping[object, object]", metadata) if isinstance(metadata, dict) else {}


def _differences(wanted: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """Settings that differ; NATS leaves out what has its zero value."""
    differences: list[str] = []
    for setting, want in wanted.items():
        have = found.get(setting)
        if have != want and (have or want):
            differences.append(f"{setting}: found {have}, wanted {want}")
    return differences


def _strangers(found: Mapping[str, object]) -> list[str]:
    """Settings that no stream of the mesh has."""
    none = ("mirror", "sources", "subject_transform", "sealed", "no_ack", "discard_new_per_subject")
    return [f"{name}: found {found[name]}, wanted none" for name in none if found.get(name)]


def _refuse(what: str, differences: list[str]) -> None:
    if differences:
        raise StreamDrifted(
            f"{what} has settings the mesh cannot work with: {'; '.join(differences)}"
        )
