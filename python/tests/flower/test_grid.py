"""Replies one by one."""

from __future__ import annotations

import time

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from grids import LocalGrid, adds, record
from tributary.flower import grid as module
from tributary.flower.grid import StreamingGrid


def messages(nodes: int) -> list[Message]:
    content = RecordDict({"arrays": record({"w": np.ones(2)})})
    return [Message(content, node, "train") for node in range(1, nodes + 1)]


def test_a_reply_is_there_before_the_next_node_has_answered() -> None:
    local = LocalGrid({node: adds(node) for node in (1, 2, 3)})
    replies = StreamingGrid(local, module.TOGETHER).send_and_receive(messages(3), timeout=60)
    assert local.replies == 0
    for number, reply in enumerate(replies, 1):
        assert (reply.metadata.src_node_id, local.replies) == (number, number)
    assert local.replies == 3


@pytest.mark.parametrize(("reply_bytes", "asked"), [(0, 3), (module.TOGETHER // 2, 2), (module.TOGETHER * 2, 1)])
def test_small_replies_are_asked_for_together(reply_bytes: int, asked: int) -> None:
    local = LocalGrid({node: adds(node) for node in (1, 2, 3)})
    replies = StreamingGrid(local, reply_bytes).send_and_receive(messages(3), timeout=60)
    next(iter(replies))
    assert local.replies == asked


def test_nodes_that_never_answer_are_waited_for_until_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(time, "sleep", looks.append)
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    local = LocalGrid({node: adds(node) for node in (1, 2, 3)}, late=[2])
    replies = StreamingGrid(local, module.TOGETHER).send_and_receive(messages(3), timeout=20)
    assert [reply.metadata.src_node_id for reply in replies] == [1, 3]
    assert looks
    assert all(module.PAUSE_MIN <= pause <= module.PAUSE_MAX for pause in looks)


def test_no_message_no_reply() -> None:
    assert list(StreamingGrid(LocalGrid({}), 1).send_and_receive([], timeout=60)) == []
