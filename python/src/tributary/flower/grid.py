"""A grid that hands over replies as they arrive."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from flwr.serverapp import Grid

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run

#: Replies that are asked for together may be as large as this, in bytes.
TOGETHER = 64 << 20

#: Looking for replies may take this part of the time, ...
EFFORT = 0.1

#: ... with pauses of so many seconds. Flower's own is 3.
PAUSE_MIN, PAUSE_MAX = 0.1, 3.0


class StreamingGrid(Grid):
    """Another grid, but for :meth:`send_and_receive`: it gives replies one by one, and keeps none.

    Flower's own grids return when the last reply is in, and hold all of them until then.

    Args:
        grid: the grid that sends and receives.
        reply_bytes: the size of a reply that is to be expected.
    """

    def __init__(self, grid: Grid, reply_bytes: int) -> None:
        self._grid = grid
        self._together = max(1, TOGETHER // max(1, reply_bytes))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Sends messages at once; then an iterator of the replies, in the order in which they arrive.

        The iterator ends with the last reply, or after ``timeout`` seconds.
        """
        ids = [message_id for message_id in self._grid.push_messages(messages) if message_id]
        return self._replies(deque(ids), timeout)

    def _replies(self, waiting: deque[str], timeout: float | None) -> Iterator[Message]:
        started = time.monotonic()
        while waiting:
            before = time.monotonic()
            found = 0
            for _ in range(0, len(waiting), self._together):
                for reply in self._look(waiting):
                    found += 1
                    yield reply
                    # Before the next one comes: they may be large.
                    del reply
            now = time.monotonic()
            if timeout is not None and now - started >= timeout:
                return
            if waiting and not found:
                time.sleep(min(max((now - before) / EFFORT, PAUSE_MIN), PAUSE_MAX))

    def _look(self, waiting: deque[str]) -> Iterator[Message]:
        """The replies to the first few messages that wait; those without one go to the end."""
        asked = list(islice(waiting, self._together))
        replies = deque(self._grid.pull_messages(asked))
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        for _ in asked:
            waiting.popleft()
        waiting.extend(message_id for message_id in asked if message_id not in answered)
        while replies:
            yield replies.popleft()

    # === the rest is the other grid's ===

    def set_run(self, run: Run) -> None:
        """Sets the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Creates a message, in the way that Flower has given up."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are connected."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are connected, with what is known of them."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there."""
        return self._grid.pull_messages(message_ids)
