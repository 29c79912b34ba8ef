"""Several nodes: redirects are followed, dead addresses passed over, and it is always said where it was tried."""

from __future__ import annotations

import itertools
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import MakeDriver, MakeNode
from scripted import Answer, Asked, Node, always, dead, elsewhere, model, problem, receipt, values
from tributary import Client, Server, errors
from tributary._core import connection
from tributary.coordinator import Coordinator

UPDATE = {"a": np.arange(3, dtype=np.float32)}
BIG = {"a": np.arange(1 << 20, dtype=np.float32)}

PUT = "PUT /v1/jobs/job/updates/client"
GET = "GET /v1/jobs/job/model"


def serving(asked: Asked) -> bytes | None:
    """A node at home: takes what comes, has a model, and lends no slots."""
    if asked.method == "GET":
        return model(1)
    if asked.method == "POST":
        return problem(403, "not-local")
    return None if asked.body is None else receipt()


# === dead addresses ===


def test_the_first_that_answers_is_used(new_driver: MakeDriver, new_node: MakeNode) -> None:
    node = new_node(serving)
    driver = new_driver(dead(), dead(), node, patience=0, local=False)
    pulled = driver.pull()
    assert pulled is not None
    assert driver.push(UPDATE).address == node.address
    assert node.lines == [GET, PUT]
    assert driver.client.address == node.address


def test_a_node_that_dies_is_replaced(new_driver: MakeDriver, new_node: MakeNode) -> None:
    first, second = new_node(serving), new_node(serving)
    driver = new_driver(first, second)
    driver.pull()
    first.die()
    assert driver.push(UPDATE).address == second.address
    second.die()
    with pytest.raises(errors.ServerUnreachable):
        new_driver(first, second, patience=0.1).pull()


def test_a_node_that_dies_in_mid_upload_is_replaced(new_driver: MakeDriver, new_node: MakeNode) -> None:
    first = new_node(always(None))
    second = new_node(serving)
    done = new_driver(first, second, patience=0).push(BIG, round=1)
    assert done.address == second.address
    np.testing.assert_array_equal(values(second.asked[-1].body), BIG["a"])


def test_every_address_that_was_tried_is_named(new_driver: MakeDriver) -> None:
    addresses = [dead(), dead(), dead()]
    with pytest.raises(errors.ServerUnreachable) as caught:
        new_driver(*addresses, patience=0).pull()
    error = caught.value
    assert error.attempts == 3, "without patience each is tried once"
    assert set(error.tried) == set(addresses)
    for address in addresses:
        assert str(error).count(address) == 1
    assert pickle.loads(pickle.dumps(error)).tried == error.tried
    with pytest.raises(errors.ServerUnreachable) as caught:
        new_driver(*addresses, patience=0.2).push(UPDATE, round=1)
    assert caught.value.attempts > 3
    assert set(caught.value.tried) == set(addresses)


# === redirects ===


def test_redirects_are_followed_and_remembered(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = new_node(serving)
    door = new_node(lambda asked: elsewhere(home, asked))
    driver = new_driver(door)
    for _ in range(2):
        assert driver.push(UPDATE, round=1, weight=2).address == home.address
    driver.pull()
    assert door.lines == [PUT]
    assert home.lines == [PUT, PUT, GET]
    assert home.asked[0].target.endswith("?round=1&weight=2.0")
    for asked in home.asked[:2]:
        np.testing.assert_array_equal(values(asked.body), UPDATE["a"])
    assert driver.client.address == home.address


def test_a_model_is_fetched_elsewhere(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = new_node(serving)
    door = new_node(lambda asked: elsewhere(home, asked))
    pulled = new_driver(door).pull(after=0, wait=1)
    assert pulled is not None
    assert home.asked[0].target == door.asked[0].target
    assert home.asked[0].target.startswith("/v1/jobs/job/model?after=0&wait=")


def test_each_name_has_a_home_of_its_own(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = new_node(serving)
    door = new_node(lambda asked: elsewhere(home, asked) if asked.path.endswith("far") else serving(asked))
    driver = new_driver(door, name=None)
    for name in ("far", "near", "far", "near"):
        driver.push(UPDATE, round=1, name=name)
    assert [line.rpartition("/")[2] for line in door.lines] == ["far", "near", "near"]
    assert [line.rpartition("/")[2] for line in home.lines] == ["far", "far"]


def test_a_file_is_sent_again(new_driver: MakeDriver, new_node: MakeNode, tmp_path: Path) -> None:
    save_file(BIG, tmp_path / "update")
    home = new_node(serving)
    door = new_node(lambda asked: elsewhere(home, asked))
    new_driver(door).push(tmp_path / "update", round=1)
    np.testing.assert_array_equal(values(home.asked[0].body), BIG["a"])


def test_a_circle_is_named(new_driver: MakeDriver, new_node: MakeNode) -> None:
    nodes: list[Node] = []
    nodes += [new_node(lambda asked: elsewhere(nodes[1], asked)), new_node(lambda asked: elsewhere(nodes[0], asked))]
    with pytest.raises(errors.Elsewhere, match="in a circle") as caught:
        new_driver(nodes[0], patience=0).push(UPDATE, round=1)
    a, b = (node.address for node in nodes)
    assert f"from {a} to {b} to {a}" in str(caught.value)
    assert (caught.value.slug, caught.value.status, caught.value.location) == ("elsewhere", 307, a)
    assert [len(node.asked) for node in nodes] == [1, 1]


def test_a_circle_that_ends_is_no_error(new_driver: MakeDriver, new_node: MakeNode) -> None:
    """While clients are moving, two nodes may each think that the other one is the home."""
    nodes: list[Node] = []
    turns = itertools.count()
    nodes += [
        new_node(lambda asked: elsewhere(nodes[1], asked)),
        new_node(lambda asked: elsewhere(nodes[0], asked) if next(turns) == 0 else serving(asked)),
    ]
    assert new_driver(nodes[0]).push(UPDATE, round=1).address == nodes[1].address


@pytest.mark.parametrize(
    ("location", "what"),
    [
        ("location: https://127.0.0.1:1/v1/jobs/job/updates/client", "http:// only"),
        ("location: http://127.0.0.1:1/login", "is it a Tributary server"),
        ("x: y", "without saying where"),
    ],
)
def test_not_everywhere_is_gone_to(new_driver: MakeDriver, new_node: MakeNode, location: str, what: str) -> None:
    door = new_node(always(problem(307, "elsewhere", location)))
    with pytest.raises(errors.ProtocolError, match=what):
        new_driver(door).push(UPDATE, round=1)
    assert len(door.asked) == 1


def test_a_home_that_dies_is_forgotten(new_driver: MakeDriver, new_node: MakeNode) -> None:
    homes = [new_node(serving), new_node(serving)]
    door = new_node(lambda asked: elsewhere(homes[0], asked))
    driver = new_driver(door)
    driver.push(UPDATE, round=1)
    homes[0].die()
    homes.pop(0)
    assert driver.push(UPDATE, round=1).address == homes[0].address
    assert door.lines == [PUT, PUT]


def test_a_home_that_is_dead_for_a_while_is_waited_for(new_driver: MakeDriver, new_node: MakeNode) -> None:
    gone, home = dead(), new_node(serving)
    turns = itertools.count()
    door = new_node(lambda asked: elsewhere(gone if next(turns) < 3 else home, asked))
    assert new_driver(door).push(UPDATE, round=1).address == home.address
    with pytest.raises(errors.ServerUnreachable) as caught:
        new_driver(new_node(lambda asked: elsewhere(gone, asked)), patience=0).push(UPDATE, round=1)
    assert caught.value.address == gone


def test_moving_homes_are_waited_for(new_driver: MakeDriver, new_node: MakeNode) -> None:
    turns = itertools.count()
    node = new_node(lambda asked: problem(503, "home-unknown") if next(turns) < 2 else serving(asked))
    new_driver(node).push(UPDATE, round=1)
    assert len(node.asked) == 3
    moving = new_node(always(problem(503, "home-unknown")))
    with pytest.raises(errors.HomeUnknown):
        new_driver(moving, patience=0).push(UPDATE, round=1)


def test_a_home_that_has_lost_the_job_is_forgotten(new_driver: MakeDriver, new_node: MakeNode) -> None:
    homes = [new_node(serving), new_node(serving)]
    door = new_node(lambda asked: elsewhere(homes[0], asked))
    driver = new_driver(door, patience=0)
    driver.push(UPDATE, round=1)
    old = homes.pop(0)
    old.answer = always(problem(404, "unknown-job"))
    assert driver.push(UPDATE, round=1).address == homes[0].address


def test_a_home_that_does_not_have_the_job_yet_is_waited_for(new_driver: MakeDriver, new_node: MakeNode) -> None:
    turns = itertools.count()
    home = new_node(lambda asked: problem(404, "unknown-job") if next(turns) < 2 else serving(asked))
    door = new_node(lambda asked: elsewhere(home, asked))
    assert new_driver(door).push(UPDATE, round=1).address == home.address
    with pytest.raises(errors.UnknownJob, match=r"why$"):
        new_driver(new_node(always(problem(404, "unknown-job")))).push(UPDATE, round=1)


def test_a_node_that_is_behind_is_waited_for(new_driver: MakeDriver, new_node: MakeNode) -> None:
    turns = itertools.count()
    node = new_node(lambda asked: problem(409, "wrong-round", round=6) if next(turns) < 2 else serving(asked))
    new_driver(node, dead()).push(UPDATE, round=7)
    assert len(node.asked) == 3
    alone = new_node(always(problem(409, "wrong-round", round=6)))
    with pytest.raises(errors.WrongRound):
        new_driver(alone).push(UPDATE, round=7)
    ahead = new_node(always(problem(409, "wrong-round", round=8)))
    with pytest.raises(errors.WrongRound):
        new_driver(ahead, dead()).push(UPDATE, round=7)
    assert len(alone.asked) == len(ahead.asked) == 1


# === bodies that are held back ===


def test_a_large_body_is_not_sent_in_vain(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = new_node(serving)
    door = new_node(lambda asked: elsewhere(home, asked))
    new_driver(door, dead()).push(BIG, round=1)
    assert door.body_bytes == 0
    assert [asked.expects for asked in home.asked] == [True]
    np.testing.assert_array_equal(values(home.asked[0].body), BIG["a"])
    small = new_driver(door, dead())
    small.push(UPDATE, round=1)
    assert home.asked[-1].expects is False


def test_one_server_alone_gets_the_body_at_once(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = new_node(serving)
    new_driver(home).push(BIG, round=1)
    assert [asked.expects for asked in home.asked] == [False]


def test_who_does_not_say_go_on_gets_the_body_all_the_same(
    new_driver: MakeDriver, new_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word comes late: in the middle of the body."""
    monkeypatch.setattr(connection, "CONTINUE_SECONDS", 0.0)
    node = new_node(serving)
    new_driver(node, dead()).push(BIG, round=1)
    np.testing.assert_array_equal(values(node.asked[0].body), BIG["a"])


# === the local path ===


def test_a_slot_is_asked_for_at_home(new_driver: MakeDriver, new_node: MakeNode) -> None:
    """The home lends none, so it gets a body; the door gets none."""
    home = new_node(serving)
    door = new_node(lambda asked: serving(asked) if asked.method == "GET" else elsewhere(home, asked))
    driver = new_driver(door)
    driver.pull()
    for _ in range(2):
        done = driver.push(UPDATE)
        assert (done.address, done.local) == (home.address, False)
    slot = "POST /v1/jobs/job/updates/client/slot"
    assert door.lines == [GET, slot]
    assert home.lines == [slot, PUT, PUT], "who lends none is not asked twice"


def test_an_update_whose_answer_was_lost_on_the_local_path_is_recognised(
    new_driver: MakeDriver, new_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values are other bytes when they come by another way."""

    def at_home(asked: Asked) -> bytes | None:
        if asked.method == "GET":
            return receipt(200, contributors=4) if "updates" in asked.path else model(1)
        if asked.method == "POST":
            return problem(403, "not-local")
        return problem(409, "other-bytes")

    home = new_node(at_home)
    driver = new_driver(home)
    driver.pull()
    with pytest.raises(errors.OtherBytes):
        driver.push(UPDATE)
    core = driver.client._core
    attempt = core._attempt

    async def lost_before(sending):  # type: ignore[no-untyped-def]
        sending.slots_lost = sending.answers_lost = True
        return await attempt(sending)

    monkeypatch.setattr(core, "_attempt", lost_before)
    done = driver.push(UPDATE)
    assert (done.repeated, done.contributors) == (True, 4)


# === a program that pushes for others ===


def test_a_coordinator_counts_what_each_node_has(new_node: MakeNode) -> None:
    """A node that was restarted has fewer than were sent to it; the other node's clients are none of its business."""
    counts = {"even": 0, "odd": 0}

    def taking(kind: str) -> Answer:
        def at_node(asked: Asked) -> bytes | None:
            if int(asked.path[-1]) % 2 != (kind == "odd"):
                return elsewhere(nodes["even" if kind == "odd" else "odd"], asked)
            counts[kind] += 1
            return receipt(contributors=counts[kind])

        return at_node

    nodes: dict[str, Node] = {}
    nodes.update({kind: new_node(taking(kind)) for kind in counts})
    coordinator = Coordinator([node.address for node in nodes.values()], "job")
    assert [coordinator.push(f"node-{number}", UPDATE, 1) for number in range(6)] == [[]] * 6
    counts["odd"] = 0
    assert coordinator.push("node-8", UPDATE, 1) == []
    assert coordinator.push("node-7", UPDATE, 1) == ["node-1", "node-3", "node-5"]
    assert coordinator.push("node-9", UPDATE, 1) == []


# === operators and events ===


def test_operators_follow_to_who_leads_and_to_who_knows(new_node: MakeNode, tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64

    def leading(asked: Asked) -> bytes | None:
        if asked.method == "HEAD":
            return b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"
        if asked.method == "PUT":
            return None if asked.body is None else receipt(201)
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"

    leader = new_node(leading)
    node = new_node(always(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"))
    door = new_node(lambda asked: elsewhere(node if "rounds" in asked.path else leader, asked))
    (tmp_path / "module").write_bytes(b"1234" * (1 << 20))
    with Server([dead(), door.address]) as server:
        assert server.upload(tmp_path / "module") != digest
        assert server.rounds("job") == server.rounds("job") == []
        assert server.jobs() == []
        assert server.apply([]) == []
        assert server.address == leader.address
    assert leader.asked[1].body == b"1234" * (1 << 20)
    assert [line.partition(" ")[0] for line in leader.lines] == ["HEAD", "PUT", "GET", "POST"]
    assert [line.partition(" ")[0] for line in door.lines] == ["HEAD", "GET"]
    assert len(node.asked) == 2


def test_who_leads_is_waited_for(new_node: MakeNode) -> None:
    turns = itertools.count()
    listed = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"
    node = new_node(lambda _: problem(503, "not-leading") if next(turns) < 2 else listed)
    with Server(node.address) as server:
        assert server.jobs() == []
    with Server(node.address, patience=0) as server:
        node.answer = always(problem(503, "not-leading"))
        with pytest.raises(errors.NotLeading):
            server.jobs()


def test_health_is_that_of_any(new_node: MakeNode) -> None:
    ready = new_node(always(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))
    assert Server([dead(), ready.address]).health()
    assert not Server([dead(), dead()]).health()


def stream(number: int) -> bytes:
    event = f'{{"id":"{number}","type":"dev.tributary.round.opened","source":"/nodes/a","subject":"jobs/job"}}'
    return f"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: {event}\n\n".encode()


def test_events_are_heard_elsewhere(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = new_node(always(stream(1)))
    door = new_node(lambda asked: elsewhere(home, asked))
    assert new_driver(dead(), door).first_event().id == "1"
    assert [asked.target for asked in home.asked] == ["/v1/events?job=job"]


def test_the_stream_goes_on_at_another_node(new_node: MakeNode) -> None:
    nodes = [new_node(always(stream(number))) for number in range(2)]
    with Client([node.address for node in nodes], "job").events() as events:
        assert [next(events).id for _ in range(3)] == ["0", "1", "0"]


def test_threads_that_share_a_client_find_the_way(new_node: MakeNode) -> None:
    home = new_node(serving)
    door = new_node(lambda asked: elsewhere(home, asked))
    failures: list[BaseException] = []
    with Client([dead(), door.address], "job") as client:

        def push(number: int) -> None:
            try:
                assert client.push(UPDATE, round=1, name=f"client-{number}").address == home.address
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=push, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(home.asked) == 16
