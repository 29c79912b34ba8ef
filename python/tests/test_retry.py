"""When to try again, with a clock of the test's own; and the answers that no test can force a real server to give."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import MakeClient, MakeNode
from scripted import Answer, always, answer, dead, problem
from tributary import errors
from tributary._core.http import Dechunker, parse_head
from tributary._core.retry import Backoff, Effort
from tributary._core.sse import Parser

LOST = errors.ConnectionLost("http://a:1", "reset")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pauses_double_up_to_a_limit_and_have_jitter() -> None:
    steps = Backoff(first=1, longest=8, random=lambda: 1.0)
    assert [steps.next() for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    steps = Backoff(first=1, longest=8, random=lambda: 0.0)
    assert [steps.next() for _ in range(4)] == [0.5, 1, 2, 4]


def test_patience_runs_from_the_first_failure() -> None:
    clock = Clock()
    effort = Effort(10, clock, Backoff(first=4, longest=4, random=lambda: 1.0))
    clock.now += 1000
    assert effort.pause(LOST) == 4
    clock.now += 4
    assert effort.pause(LOST) == 4
    clock.now += 4
    assert effort.pause(LOST) == 2, "one attempt is made when the patience ends"
    clock.now += 2
    assert effort.pause(LOST) is None
    assert (effort.attempts, effort.seconds) == (4, 10)


def test_waiting_is_logged(new_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(errors.ServerUnreachable):
        new_client("any", address=dead(), patience=0.2).pull()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tributary", "WARNING")
    assert "cannot reach http://127.0.0.1" in record.message
    assert record.message.endswith("trying again, for 0 s more")


def test_without_patience_there_is_one_attempt() -> None:
    assert Effort(0, Clock()).pause(LOST) is None


def test_another_place_needs_no_pause() -> None:
    effort = Effort(0, Clock())
    assert effort.pause(LOST, elsewhere=True) == 0
    assert effort.pause(errors.LayoutMismatch(""), elsewhere=True) is None
    assert effort.pause(LOST) is None


def test_the_servers_time_is_respected() -> None:
    effort = Effort(60, Clock(), Backoff(first=1, random=lambda: 1.0))
    assert effort.pause(errors.NoSlot("full", status=429, retry_after=5)) == 6


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (errors.NoSlot("", status=429), True),
        (errors.SharedMemoryFull("", status=507), True),
        (errors.RoundClosing("", status=409), True),
        (errors.StalledUpdate("", status=408), True),
        (errors.ServerUnreachable("a", "b"), True),
        (errors.ServerTimeout("a", "b"), True),
        (errors.Problem("", status=503), True),
        (errors.WrongRound("", status=409), False),
        (errors.NonFinite("", status=422), False),
        (errors.InternalError("", status=500), False),
        (errors.LayoutMismatch(""), False),
        (errors.ProtocolError(), False),
    ],
)
def test_what_is_tried_again(error: Exception, again: bool) -> None:
    assert (Effort(60, Clock()).pause(error) is not None) == again


DONE = answer(202, {"job": "job", "client": "client", "round": 3, "contributors": 2, "new-in-0.2": True})
UPDATE = {"a": np.float32(1)}


def in_turn(*answers: bytes) -> Answer:
    left = iter(answers)
    return lambda _: next(left)


def test_full_servers_and_closing_rounds_are_waited_for(new_client: MakeClient, new_node: MakeNode) -> None:
    refusals = [problem(507, "shared-memory-full"), problem(409, "round-closing"), answer(503, "not a problem")]
    node = new_node(in_turn(*refusals, DONE))
    done = new_client("job", "client", node.address).push(UPDATE, round=3)
    assert (done.round, done.contributors, len(node.asked)) == (3, 2, 4)
    assert done.raw["new-in-0.2"] is True


@pytest.mark.parametrize(
    ("status", "slug", "kind"),
    [(507, "shared-memory-full", errors.SharedMemoryFull), (409, "round-closing", errors.RoundClosing)],
)
def test_without_patience_they_are_told(
    new_client: MakeClient, new_node: MakeNode, status: int, slug: str, kind: type[errors.Problem]
) -> None:
    node = new_node(always(problem(status, slug, more=7)))
    with pytest.raises(kind, match="why") as caught:
        new_client("job", "client", node.address, patience=0).push(UPDATE, round=3)
    assert caught.value.members == {"more": 7}


def test_slugs_of_later_versions_are_problems(new_client: MakeClient, new_node: MakeNode) -> None:
    node = new_node(always(problem(418, "new-in-0-2")))
    with pytest.raises(errors.Problem) as caught:
        new_client("job", "client", node.address).push(UPDATE, round=3)
    assert (type(caught.value), caught.value.slug, caught.value.status) == (errors.Problem, "new-in-0-2", 418)


# === bytes in any pieces ===


def test_chunks_in_any_pieces() -> None:
    body = b"4\r\nwiki\r\n5;x=y\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\n\r\n"
    for size in range(1, len(body) + 1):
        dechunker = Dechunker()
        parts = [dechunker.feed(body[start : start + size]) for start in range(0, len(body), size)]
        assert b"".join(parts) == b"wikipedia in\r\n\r\nchunks."
        assert dechunker.ended
    with pytest.raises(errors.ProtocolError, match="size"):
        Dechunker().feed(b"xyz\r\n")


def test_heads_in_any_pieces() -> None:
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nX: a: b\r\n\r\nbody"
    for end in range(text.index(b"body")):
        assert parse_head(text[:end]) is None
    parsed = parse_head(text)
    assert parsed is not None
    head, end = parsed
    assert (head.status, head.length, head.headers["x"], text[end:]) == (200, 12, "a: b", b"body")
    for wrong in (b"SSH-2.0\r\n\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n", b"a" * (1 << 17)):
        with pytest.raises(errors.ProtocolError):
            parse_head(wrong)


def test_events_in_any_pieces() -> None:
    text = b": 17\n\n:\n\nid: 1\nevent: a\ndata: one\n\ndata: two\r\ndata: lines\r\n\r\n\n"
    for size in range(1, len(text) + 1):
        parser = Parser()
        events = [event for start in range(0, len(text), size) for event in parser.feed(text[start : start + size])]
        assert events == ["one", "two\nlines"]
        assert parser.comments == ["17"]
