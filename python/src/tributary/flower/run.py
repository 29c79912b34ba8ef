"""A run of Flower's as a job: how arrays get from nodes into it, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from logging import WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from tributary import errors
from tributary.coordinator import Coordinator, Outcome, RoundLost
from tributary.flower.arrays import Layout
from tributary.flower.direct import RECORD, Reference, client_name, node_of, weight_of

log = logging.getLogger("flwr").log


class Relayed:
    """Arrays go through Flower: this program pushes the updates of all nodes.

    Args:
        coordinator: the job, not created yet.
        arrays: the first model.
        weight: the key of an update's weight among its metrics.

    Attributes:
        coordinator: the job.
        reply_bytes: the size of a reply that is to be expected.

    Raises:
        UnsupportedArray: no job can hold such a model.
    """

    def __init__(self, coordinator: Coordinator, arrays: ArrayRecord, weight: str) -> None:
        self.coordinator = coordinator
        self.reply_bytes = sum(len(array.data) for array in arrays.values())
        self._layout = Layout.of(arrays)
        self._weight = weight
        tensors, self._counted = self._layout.split(arrays)
        coordinator.create(tensors)

    def outgoing(self, arrays: ArrayRecord) -> ArrayRecord:
        """What messages carry of a model."""
        return arrays

    def address(self, messages: Iterable[Message], *, train: bool) -> None:
        """Says in messages where the rest of the model is."""

    def take(self, node: int, content: RecordDict) -> list[int]:
        """Takes a valid reply into the round, and its floating-point arrays out of the reply.

        Returns:
            The nodes whose replies were taken before and are lost; see :meth:`Coordinator.push`.

        Raises:
            UpdateRefused, UnsupportedArray: it does not count.
        """
        ((key, arrays),) = content.array_records.items()
        weight = weight_of(content, self._weight) or 0.0
        tensors, content[key] = self._layout.split(arrays)
        return [node_of(client) for client in self.coordinator.push(client_name(node), tensors, weight)]

    def close(self, contents: list[RecordDict]) -> ArrayRecord | None:
        """Closes the round with the replies that were taken; its model, ``None`` if there is none."""
        if not contents:
            return None
        try:
            outcome = self.coordinator.close(len(contents))
        except RoundLost as error:
            log(WARNING, "aggregate_train: %s", error)
            return None
        return self._received(outcome, contents)

    def _received(self, outcome: Outcome, contents: list[RecordDict]) -> ArrayRecord:
        """A round's model as Flower's record."""
        if outcome.contributors != len(contents):
            log(
                WARNING,
                "aggregate_train: %s updates are in the model, and %s replies were taken",
                outcome.contributors,
                len(contents),
            )
        if contents:
            # The floating-point arrays were taken out; what is left Flower averages as it always does.
            self._counted = aggregate_arrayrecords(contents, self._weight)
        return self._layout.join(outcome.model, self._counted)


class Direct(Relayed):
    """Arrays go between nodes and Tributary: this program pushes nothing.

    Args:
        coordinator: the job, not created yet.
        arrays: the first model.
        weight: the key of an update's weight among its metrics.
        server: the address of Tributary, or several, as nodes reach it.
        record: the key of the model's arrays in messages.
    """

    def __init__(
        self, coordinator: Coordinator, arrays: ArrayRecord, weight: str, server: str | list[str], record: str
    ) -> None:
        super().__init__(coordinator, arrays, weight)
        self.reply_bytes = sum(len(array.data) for array in self._counted.values())
        self._model = arrays
        self._server, self._record = server, record

    def outgoing(self, arrays: ArrayRecord) -> ArrayRecord:
        """The arrays that the job does not hold.

        Raises:
            InvalidArgument: the arrays are not the job's newest model.
        """
        if arrays is not self._model:
            raise errors.InvalidArgument(
                "in direct mode nodes train from the job's own model, and these are other arrays; "
                "return from aggregate_train what it gave, or leave direct mode"
            )
        return self._counted

    def address(self, messages: Iterable[Message], *, train: bool) -> None:
        """Says in messages where the rest of the model is."""
        dtypes = self._layout.dtypes
        reference = Reference(
            server=self._server,
            job=self.coordinator.job,
            version=self.coordinator.version,
            patience=self.coordinator.patience,
            train=int(train),
            arrays=self._record,
            weight=self._weight,
            names=list(dtypes),
            dtypes=[str(dtype) for dtype in dtypes.values()],
        )
        for message in messages:
            reference.put(message.content)

    def take(self, node: int, content: RecordDict) -> list[int]:
        """Takes a reply whose update is in the round already.

        Raises:
            MalformedUpdate: it is not.
        """
        receipt = content.pop(RECORD, None)
        if isinstance(receipt, ConfigRecord) and receipt.get("round") == self.coordinator.version:
            return []
        raise errors.MalformedUpdate(
            f"node {node} has not pushed to Tributary; give its ClientApp the mod: ClientApp(mods=[direct_mod])"
        )

    def close(self, contents: list[RecordDict]) -> ArrayRecord | None:
        """Closes the round; its model. Updates whose replies got lost on the way are inside."""
        try:
            outcome = self.coordinator.close(len(contents))
        except RoundLost as error:
            if contents:
                log(WARNING, "aggregate_train: %s", error)
            return None
        self._model = self._received(outcome, contents)
        return self._model
