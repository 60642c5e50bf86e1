"""What a scripted interleaving begins and ends with."""

from mesh.core import event as e
from tests.unit.leg.chance import Chance
from tests.unit.leg.world import Setting, World

__all__ = ["END", "end", "world", "written"]

END = "task.completed"


def world(
    program: str,
    *,
    workers: int = 2,
    retry: str = "nak",
    limit: int = 4,
    deadline: bool = False,
) -> World:
    """One task, submitted, and nothing done yet."""
    return World(
        Setting(program=program, workers=workers, retry=retry, limit=limit, deadline=deadline)
    )


def end(w: World, ended: str = END) -> dict[str, int]:
    """Let it end without any more faults; how often each step ran."""
    Chance(w).finish()
    assert w.log.story.ended == ended
    return {name.partition("/")[2]: n for name, n in w.log.runs.items()}


def written(w: World, *kinds: type[e.TaskEvent]) -> list[e.TaskEvent]:
    return [
        r.envelope.event for r in w.log.records if r.envelope and type(r.envelope.event) in kinds
    ]
