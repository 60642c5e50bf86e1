"""What the demo tells of a task and its children: as it happens, and when it is over."""

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType

from mesh.cli.render import columns, seconds_between
from mesh.core import event as e
from mesh.supervisor import MeshRun
from mesh.wire.v1.api_pb2 import Event

__all__ = ["Story"]

_CLOSING = frozenset(kind.kind for kind in e.CLOSING)
_TURNS = frozenset((e.TaskSubmitted.kind, e.HandedOff.kind, e.Suspended.kind)) | _CLOSING
"""What ends somebody's work on a task, for now or for good."""


class Story:
    """The events of a task and of its children, in the order of their positions.

    Args:
        root: Id of the task that was submitted.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.events: list[Event] = []
        self._depths = {root: 0}
        self._objectives: dict[str, str] = {}
        self._at_work: dict[str, str] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Ids of the root and of its children, as they were created."""
        return tuple(self._depths)

    @property
    def ended(self) -> bool:
        """Whether the last event is the root's outcome."""
        last = self.events[-1] if self.events else Event()
        return last.task_id == self.root and last.kind in _CLOSING

    def add(self, event: Event) -> None:
        """Hear of the next event of the tree."""
        self.events.append(event)
        match event.kind:
            case e.Delegated.kind:
                self._depths[_said(event, "childTaskId")] = self._depths[event.task_id] + 1
            case e.TaskSubmitted.kind:
                self._objectives[event.task_id] = _said(event, "objective")
                self._at_work[event.task_id] = event.to
            case e.HandedOff.kind:
                self._at_work[event.task_id] = event.to
            case e.Resumed.kind:
                self._at_work[event.task_id] = _sender(event)
            case kind if kind in _TURNS:
                self._at_work.pop(event.task_id, None)
            case _:
                pass

    def working(self) -> str:
        """Who is at work now, such as `reader (2) works …`."""
        counts = Counter(self._at_work.values())
        names = [f"{name} ({n})" if n > 1 else name for name, n in counts.items()]
        return f"{', '.join(names)} {'work' if counts.total() > 1 else 'works'} …"

    def line(self, event: Event) -> str:
        """One event as it happens; those of children indented."""
        at = seconds_between(self.events[0].occurred_at, event.occurred_at)
        indent = "  " * self._depths[event.task_id]
        return f"  {at:7.3f} s  {indent}{_sender(event)} (pid {_pid(event)}) {self._what(event)}"

    def timeline(self, run: MeshRun) -> RenderableType:
        """Who had the task, when, for how long, in which process; then who recorded it.

        Children stand indented below the one that delegated them.
        """
        table = columns("WHO", "PID", "AT", "TOOK", "WHAT")
        began = self.events[0].occurred_at
        for event in self._turns(self.root):
            worked = event.kind != e.TaskSubmitted.kind and event.HasField("started_at")
            at = seconds_between(began, event.started_at if worked else event.occurred_at)
            took = seconds_between(event.started_at, event.occurred_at) if worked else 0.0
            table.add_row(
                "  " * self._depths[event.task_id] + _sender(event),
                _pid(event),
                f"{at:+.3f} s",
                f"{took:.3f} s" if worked else "",
                self._what(event),
            )
        ledger = next(each for each in run.services if each.kind == "ledger")
        children = len(self._depths) - 1
        whose = f"this task and its {children} children" if children else "this task"
        count = f"recorded {len(self.events)} events of {whose}"
        table.add_row("ledger", str(ledger.pid), "", "", count)
        return table

    def _turns(self, task_id: str) -> Iterator[Event]:
        """What a task's turns ended with, and where it delegated, the same of its children."""
        children: list[str] = []
        for event in self.events:
            if event.task_id != task_id:
                continue
            if event.kind == e.Delegated.kind:
                children.append(_said(event, "childTaskId"))
            elif event.kind in _TURNS and (task_id == self.root or not _begins(event)):
                yield event
                for child in children:
                    yield from self._turns(child)
                children = []

    def _what(self, event: Event) -> str:
        objective = self._objectives.get(event.task_id, "") if event.task_id != self.root else ""
        about = f": {objective}" if objective else ""
        match event.kind:
            case e.TaskSubmitted.kind:
                return f"submitted to {event.to}{about}"
            case e.HandedOff.kind:
                return f"handed off to {event.to}"
            case e.Delegated.kind:
                return f"delegated to {_said(event, 'agent')}"
            case e.Suspended.kind:
                waits = len(event.body.fields["waits"].list_value.values)
                return f"waits for {waits} {'children' if waits > 1 else 'child'}"
            case e.StepRecorded.kind:
                return f"recorded step {_said(event, 'name')}"
            case kind if kind in _CLOSING:
                return f"{_words(kind)}{about}"
            case kind:
                return _words(kind)


def _begins(event: Event) -> bool:
    return event.kind == e.TaskSubmitted.kind


def _sender(event: Event) -> str:
    return str(getattr(event, "from"))


def _pid(event: Event) -> str:
    """Process that wrote an event: an instance's name begins with its pid."""
    return event.instance.partition("-")[0]


def _said(event: Event, name: str) -> str:
    """A text of the event's own, "" if it has none of that name."""
    return event.body.fields[name].string_value if name in event.body.fields else ""


def _words(kind: str) -> str:
    return kind.removeprefix("task.").replace("_", " ")
