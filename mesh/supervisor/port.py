"""TCP ports of this machine: whether one is free, some that are, and waiting for one to be."""

import random
import socket
from collections.abc import Iterable
from contextlib import ExitStack

import anyio

__all__ = ["is_free", "spare_ports", "until_free"]

_SPARE = range(20_000, 32_000)
_POLL_S = 0.02


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of the loopback interface now."""
    with socket.socket() as probe:
        # As the servers do it: a port that only lingers from a mesh just stopped is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def until_free(ports: Iterable[int], *, within_s: float) -> None:
    """Wait until all of these ports are free, but no longer than `within_s` seconds."""
    with anyio.move_on_after(within_s):
        for port in ports:
            while not is_free(port):  # noqa: ASYNC110 - the kernel sets no event
                await anyio.sleep(_POLL_S)


def spare_ports(count: int) -> list[int]:
    """Free ports, below those that the kernel gives to outgoing connections.

    One of those could take a server's port while the server is being restarted.
    """
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(_SPARE, len(_SPARE)):
            try:
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                break
    return ports
