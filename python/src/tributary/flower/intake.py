"""The replies of one round of training: which count, and why the others do not."""

from __future__ import annotations

import logging
from logging import INFO
from typing import TYPE_CHECKING

from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy.strategy_utils import validate_message_reply_consistency

from tributary import errors
from tributary.flower.arrays import UnsupportedArray
from tributary.flower.run import Relayed

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

log = logging.getLogger("flwr").log

#: Why a reply does not count that was taken before.
LOST = "the Tributary server was restarted, and this update is lost"


class Intake:
    """Takes replies one by one, and says at the end what became of them, in Flower's words.

    Args:
        run: where updates go.
        weighted_by: the metric that is an update's weight.
    """

    def __init__(self, run: Relayed, weighted_by: str) -> None:
        self._run = run
        self._weighted_by = weighted_by
        self._results: dict[int, RecordDict] = {}
        self._failures: list[tuple[int, str]] = []
        self._inconsistent: InconsistentMessageReplies | None = None

    def take(self, reply: Message) -> None:
        """Takes a reply, or notes why it does not count."""
        node = reply.metadata.src_node_id
        if reply.has_error():
            self._failures.append((node, reply.error.reason or ""))
        elif node in self._results:
            self._failures.append((node, "a node's second reply in a round"))
        else:
            self._take(node, reply.content)

    def _take(self, node: int, content: RecordDict) -> None:
        try:
            validate_message_reply_consistency([content], self._weighted_by, check_arrayrecord=True)
            lost = self._run.take(node, content)
        except InconsistentMessageReplies as error:
            self._inconsistent = self._inconsistent or error
        except (errors.UpdateRefused, UnsupportedArray) as error:
            self._failures.append((node, f"{type(error).__name__}: {error}"))
        else:
            self._forget(lost)
            self._results[node] = content

    def _forget(self, lost: list[int]) -> None:
        """Some that were taken do not count any more."""
        for node in lost:
            if self._results.pop(node, None) is not None:
                self._failures.append((node, LOST))

    def finish(self) -> list[RecordDict]:
        """Logs what came; the contents of the replies that count.

        Raises:
            InconsistentMessageReplies: where FedAvg raises it: a reply is without its one record of arrays, its one
                record of metrics or the weight in it, or the replies' metrics differ in their names.
        """
        if not (self._results or self._failures or self._inconsistent):
            return []
        log(
            INFO,
            "aggregate_train: Received %s results and %s failures",
            len(self._results),
            len(self._failures),
        )
        for node, reason in self._failures:
            log(INFO, "\t> Received error in reply from node %d: %s", node, reason)
        if self._inconsistent:
            raise self._inconsistent
        contents = list(self._results.values())
        if contents:
            validate_message_reply_consistency(contents, self._weighted_by, check_arrayrecord=False)
        return contents
