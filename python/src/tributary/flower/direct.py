"""Direct mode: arrays go between nodes and Tributary, and Flower carries what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from tributary import errors
from tributary.client import Client
from tributary.flower.arrays import COUNTED, Layout

#: The record of a message that stands for arrays which are elsewhere.
RECORD = "tributary"


class StaleModel(errors.TributaryError):
    """The model that a message speaks of has been replaced: this node was asked too long ago."""


@dataclass(frozen=True)
class Reference:
    """Where a model lies, and what Flower's record of it looks like.

    Attributes:
        server: the address of Tributary, or several, as nodes reach it.
        job: the job's name.
        version: the model's version, which is also the round to push to.
        patience: seconds for which an absent server is waited for.
        train: 1 if the reply's arrays are an update, 0 if they are none of the job's business.
        arrays: the key of the ArrayRecord.
        weight: the key of an update's weight among its metrics.
        names: the model's arrays, in order.
        dtypes: their dtypes.
    """

    server: str | list[str]
    job: str
    version: int
    patience: float
    train: int
    arrays: str
    weight: str
    names: list[str]
    dtypes: list[str]

    def put(self, content: RecordDict) -> None:
        """Puts it into a message."""
        content[RECORD] = ConfigRecord({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def take(cls, content: RecordDict) -> Reference | None:
        """Takes it out of a message, if there is one."""
        record = content.pop(RECORD, None)
        if record is None:
            return None
        values: dict[str, Any] = {field.name: record[field.name] for field in fields(cls)}
        return cls(**values)


def direct_mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Lets a ClientApp fetch models from Tributary and push its updates there: ``ClientApp(mods=[direct_mod])``.

    The app itself sees what it always does: a message with the model's arrays. It works for a
    :class:`~tributary.flower.TributaryStrategy` in direct mode, and changes nothing for any other.

    Mods that look at arrays, such as Flower's clipping, belong behind it in the list.

    Raises:
        StaleModel: the model has been replaced in the meantime.
        TributaryError: as of :meth:`tributary.Client.pull` and :meth:`tributary.Client.push`. Whatever is raised
            becomes an error reply; the round goes on without this node.
    """
    reference = Reference.take(message.content) if message.has_content() else None
    if reference is None:
        return call_next(message, context)
    name = client_name(context.node_id)
    with Client(reference.server, reference.job, name, patience=reference.patience) as client:
        layout = _fetch(client, reference, message.content)
        reply = call_next(message, context)
        if reference.train and reply.has_content():
            _push(client, reference, layout, reply.content)
    return reply


def client_name(node: int) -> str:
    """The name under which a node of Flower's is a client of a job."""
    return f"node-{node}"


def node_of(client: str) -> int:
    """The opposite of :func:`client_name`."""
    return int(client.removeprefix("node-"))


def _fetch(client: Client, reference: Reference, content: RecordDict) -> Layout:
    """Puts the model's arrays into a message."""
    model = client.pull()
    if model is None or model.version != reference.version:
        raise StaleModel(
            f"the message is about model {reference.version} of job {reference.job}, and the newest is "
            f"{model.version if model else 'none'}: the round went on without this node; it may take part in the next"
        )
    counted = content[reference.arrays]
    if not isinstance(counted, ArrayRecord):
        raise errors.ProtocolError(f"record {reference.arrays!r} of the message is no ArrayRecord")
    dtypes = {name: np.dtype(dtype) for name, dtype in zip(reference.names, reference.dtypes, strict=True)}
    shapes = {
        name: counted[name].shape if dtype.kind in COUNTED else model[name].shape for name, dtype in dtypes.items()
    }
    layout = Layout(dtypes, shapes)
    content[reference.arrays] = layout.join(model, counted)
    return layout


def _push(client: Client, reference: Reference, layout: Layout, content: RecordDict) -> None:
    """Pushes a reply's arrays, and leaves the number of the round in their place.

    A reply that is not what the strategy wants, one ArrayRecord and a weight, stays as it is: the strategy says so, as
    Flower's own would.
    """
    if len(content.array_records) != 1 or len(content.metric_records) != 1:
        return
    weight = weight_of(content, reference.weight)
    if weight is None:
        return
    ((key, arrays),) = content.array_records.items()
    tensors, counted = layout.split(arrays)
    accepted = client.push(tensors, weight=weight, round=reference.version, encoding="f32", cast=True)
    content[key] = counted
    content[RECORD] = ConfigRecord({"job": accepted.job, "round": accepted.round})


def weight_of(content: RecordDict, key: str) -> float | None:
    """The weight among a reply's metrics, if there is one."""
    metrics = next(iter(content.metric_records.values()))
    weight = metrics.get(key)
    return float(weight) if isinstance(weight, (int, float)) else None
