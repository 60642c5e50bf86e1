"""What a task emits, put together from live output and from the events that record it.

Live output comes at once, may get lost, and is void if its run ends without recording it. What the
events record is what counts, and says which chunks of which run it is.

Source: design, section 1; `mesh.agent.emitter`.
"""

from collections import deque
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

from mesh.core.event import ProgressReported
from mesh.wire.v1.api_pb2 import Live
from mesh.wire.v1.gateway_pb2 import WatchTaskResponse

__all__ = ["Output", "OutputReader"]

_HELD = 1024
"""Most chunks that wait for an event or for a chunk before them; the events make up for more."""


@dataclass(frozen=True, slots=True)
class Output:
    """The next piece of what a task emits.

    Attributes:
        text: The text to add; may be empty.
        takes_back: How many of the last characters given before are void, to be taken away first:
            the run that emitted them ended before they were recorded. 0 almost always.
    """

    text: str = ""
    takes_back: int = 0

    def added_to(self, before: str) -> str:
        """The whole text after this piece, from the whole text before it."""
        return before[: len(before) - self.takes_back] + self.text


class OutputReader:
    """Puts the output of one task together, from all the updates of a live watch from its begin.

    Each character is given once and in order. A piece that takes something back says so.
    """

    def __init__(self) -> None:
        self._position = 0
        self._run, self._number = "", 0
        # An event that the run which shows knew, and the ones before it did not.
        self._began = 0
        # Lengths of the chunks that were given and are not recorded, up to `_number`.
        self._tail: deque[tuple[int, int]] = deque()
        self._held: dict[tuple[str, int], Live] = {}

    @property
    def last(self) -> tuple[str, int]:
        """Run and number of the last chunk that was given, live or recorded; `("", 0)` of none."""
        return self._run, self._number

    def take(self, update: WatchTaskResponse) -> list[Output]:
        """What an update brings; often nothing."""
        given: list[Output] = []
        if update.HasField("live"):
            self._hold(update.live)
        elif update.HasField("event"):
            self._position = max(self._position, update.event.position)
            if update.event.kind == ProgressReported.kind:
                given += self._recorded(update.event.body)
        given += self._released()
        if update.HasField("event") and update.task.HasField("closed_at"):
            given.append(self._void())  # a task that is closed records nothing more
        return [piece for piece in given if piece != Output()]

    def _recorded(self, body: Struct) -> list[Output]:
        """The record of chunks: gives what is missing of it, in place of what it rules out."""
        run, text = body.fields["run"].string_value, body.fields["text"].string_value
        if not run:
            return []  # a note for people
        last = int(body.fields["lastNumber"].number_value)
        void = Output()
        if run != self._run:
            # Only one run at a time can append: what the other one showed and did not is void.
            void = self._switch(run, int(body.fields["firstNumber"].number_value) - 1)
        known = 0
        while self._tail and self._tail[0][0] <= last:
            known += self._tail.popleft()[1]
        self._number, self._began = max(self._number, last), self._position
        self._drop_stale()
        return [void, Output(text[known:])]

    def _hold(self, live: Live) -> None:
        if self._is_new(live) and len(self._held) < _HELD:
            self._held[live.run, live.number] = live

    def _is_new(self, live: Live) -> bool:
        if live.run == self._run:
            return live.number > self._number
        # Of two runs the one that knows less has been cut off from the task: to run after it, the
        # other one had to be given the task by a later event.
        return live.after_position > self._began

    def _drop_stale(self) -> None:
        self._held = {key: live for key, live in self._held.items() if self._is_new(live)}

    def _released(self) -> list[Output]:
        """What can be given of the live output that has come."""
        given: list[Output] = []
        while (piece := self._next()) is not None:
            given += piece
        return given

    def _next(self) -> list[Output] | None:
        live = self._held.get((self._run, self._number + 1))
        if live is not None:
            return self._shown(live)
        for live in self._held.values():
            begins = live.number == 1 and live.run != self._run
            # Not before all that it knew is known here: the other run may have recorded more.
            if begins and live.after_position <= self._position:
                void = self._switch(live.run, 0)
                self._began = live.after_position
                self._drop_stale()
                return [void, *self._shown(live)]
        return None

    def _shown(self, live: Live) -> list[Output]:
        del self._held[live.run, live.number]
        self._number = live.number
        self._tail.append((live.number, len(live.text)))
        return [Output(live.text)]

    def _switch(self, run: str, number: int) -> Output:
        """From one run to another: what the one did not record is void."""
        self._run, self._number = run, number
        return self._void()

    def _void(self) -> Output:
        void = sum(length for _, length in self._tail)
        self._tail.clear()
        return Output(takes_back=void)
