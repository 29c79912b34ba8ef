"""A grid whose nodes are functions: real messages, real ClientApps, no processes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from tributary.flower import direct_mod

Train = Callable[[Message, Context], Message]
Arrays = Mapping[str, np.ndarray[Any, Any]]

_runs = iter(range(1, 1_000_000))

# What a process of Flower's is told when it starts.
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1


class LocalGrid(Grid):
    """Runs a ClientApp whenever a reply is pulled; a reply arrives once ``open_to`` allows it.

    Args:
        train: what each node does, by number from 1.
        mods: of the ClientApp.
        late: nodes that never answer.
    """

    def __init__(self, train: Mapping[int, Train], *, mods: bool = True, late: Iterable[int] = ()) -> None:
        self._train, self._mods, self._late = dict(train), mods, set(late)
        self._waiting: dict[str, Message] = {}
        self._run = Run.create_empty(run_id=next(_runs))
        self.before_reply: Callable[[int], None] = lambda _: None
        self.replies = 0

    def get_node_ids(self) -> Iterable[int]:
        return list(self._train)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids: list[str] = []
        for message in messages:
            ids.append(f"message-{len(ids)}-{id(message)}")
            sent = Message(copy.deepcopy(message.content), message.metadata.dst_node_id, message.metadata.message_type)
            sent.metadata.__dict__["_message_id"] = ids[-1]
            self._waiting[ids[-1]] = sent
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = [self._waiting[message_id] for message_id in message_ids]
        return [self._answer(message) for message in asked if message.metadata.dst_node_id not in self._late]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        self.replies += 1
        self.before_reply(self.replies)
        context = Context(self.run.run_id, node, {}, RecordDict(), {})
        app = ClientApp(mods=[direct_mod] if self._mods else [])
        app.train()(self._train[node])
        app.evaluate()(evaluate)
        try:
            return app(message, context)
        except Exception as error:  # as Flower's nodes do
            return Message(Error(0, f"{type(error)}:<{str(error)!r}>"), reply_to=message)

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        raise NotImplementedError


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})


def numpy(arrays: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    return {name: array.numpy() for name, array in arrays.items()}


def reply(message: Message, arrays: Arrays, **metrics: Any) -> Message:
    content = RecordDict({"arrays": record(arrays), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)


def adds(number: float, *, weight: float = 1) -> Train:
    """A node that adds something to every array."""

    def train(message: Message, context: Context) -> Message:
        arrays = {name: values + np.asarray(number).astype(values.dtype) for name, values in received(message).items()}
        return reply(message, arrays, **{"num-examples": weight, "loss": float(number)})

    return train


def fails(message: Message, context: Context) -> Message:
    raise RuntimeError("this node is ill")


def sends(arrays: Arrays, **metrics: Any) -> Train:
    """A node that answers with these arrays, whatever it gets."""
    metrics = metrics or {"num-examples": 1, "loss": 0.0}
    return lambda message, _: reply(message, arrays, **metrics)


def received(message: Message) -> dict[str, np.ndarray[Any, Any]]:
    return numpy(message.content.array_records["arrays"])


def evaluate(message: Message, context: Context) -> Message:
    total = float(sum(values.astype(np.float64).sum() for values in received(message).values()))
    metrics = MetricRecord({"sum": total, "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@contextmanager
def flower_log() -> Iterator[list[str]]:
    """What Flower's log says meanwhile, line by line."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            lines.append(entry.getMessage())

    handler = Keep()
    logging.getLogger("flwr").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("flwr").removeHandler(handler)
