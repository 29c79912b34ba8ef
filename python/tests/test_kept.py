"""Updates that are lost with their node are pushed again while their client waits, and none is counted twice."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import MakeDriver, MakeNode, make_job
from process import Process
from scripted import NOTHING_NEW, Asked, Node, elsewhere, model, problem, receipt, values
from tributary import Client, errors
from tributary._core import keeping
from tributary._core.address import Address

UPDATE = {"a": np.arange(3, dtype=np.float32)}
PUT = "PUT /v1/jobs/job/updates/client"
ASK = "GET /v1/jobs/job/updates/client"
GET = "GET /v1/jobs/job/model"


class Home:
    """A node of round 1. It has a new model once it holds what it shall hold, and was asked for it often enough.

    Attributes:
        held: clients' updates that it has; a test may lose them.
        pushes: how many updates make a model.
        looks: how many requests for the model are answered with nothing before.
    """

    def __init__(self, pushes: int = 1, looks: int = 0) -> None:
        self.held: dict[str, bytes] = {}
        self.pushes, self.looks = pushes, looks
        self.taken = 0
        self.refusal: bytes | None = None

    def __call__(self, asked: Asked) -> bytes | None:
        if asked.path.endswith("/model"):
            return self._model()
        client = asked.path.rpartition("/")[2]
        if asked.method == "GET":
            return receipt(200) if client in self.held else problem(404, "not-held")
        if asked.body is None:
            return None
        if self.taken and self.refusal:
            return self.refusal
        repeated = client in self.held
        self.held.setdefault(client, asked.body)
        self.taken += not repeated
        return receipt(200 if repeated else 202)

    def _model(self) -> bytes:
        self.looks -= 1
        return model(2) if self.taken >= self.pushes and self.looks < 0 else NOTHING_NEW


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is always time to ask."""
    monkeypatch.setattr(keeping, "ASK_SECONDS", 0.0)


@pytest.fixture
def hardly_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never time to ask, unless there is a reason."""
    monkeypatch.setattr(keeping, "ASK_SECONDS", 3600.0)


@pytest.mark.usefixtures("at_once")
def test_what_no_node_holds_is_pushed_again(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = Home(pushes=2)
    node = new_node(home)
    driver = new_driver(node)
    driver.push(UPDATE, round=1, weight=3)
    home.held.clear()
    new = driver.pull(after=1, wait=60)
    assert new is not None
    assert new.version == 2
    assert node.lines == [PUT, ASK, PUT, GET]
    assert node.asked[1].target.endswith("?round=1")
    assert node.asked[0].target == node.asked[2].target
    assert node.asked[0].body == node.asked[2].body


@pytest.mark.usefixtures("at_once")
def test_what_is_held_is_not_pushed_again(new_driver: MakeDriver, new_node: MakeNode) -> None:
    node = new_node(Home(looks=5))
    driver = new_driver(node)
    driver.push(UPDATE, round=1)
    assert driver.pull(after=1, wait=60) is not None
    assert node.lines == [PUT, *[ASK, GET] * 6]


@pytest.mark.usefixtures("at_once")
def test_short_waits_are_enough(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = Home(pushes=3, looks=2)
    node = new_node(home)
    driver = new_driver(node)
    driver.push(UPDATE, round=1)
    for _ in range(2):
        home.held.clear()
        assert driver.pull(after=1) is None
    assert driver.pull(after=1) is not None
    assert node.lines.count(PUT) == 3


@pytest.mark.usefixtures("hardly_ever")
def test_it_is_not_asked_all_the_time(new_driver: MakeDriver, new_node: MakeNode) -> None:
    node = new_node(Home(looks=5))
    driver = new_driver(node)
    driver.push(UPDATE, round=1)
    assert driver.pull(after=1, wait=60) is not None
    assert node.lines == [PUT, *[GET] * 6]


@pytest.mark.usefixtures("hardly_ever")
def test_it_is_asked_at_once_when_the_node_dies(new_driver: MakeDriver, new_node: MakeNode) -> None:
    first, second = new_node(Home(pushes=9)), new_node(Home())
    driver = new_driver(first, second)
    driver.push(UPDATE, round=1)
    first.answer = first.die_at
    new = driver.pull(after=1, wait=60)
    assert new is not None
    assert second.lines == [ASK, PUT, GET]
    np.testing.assert_array_equal(values(second.asked[1].body), UPDATE["a"])


@pytest.mark.usefixtures("hardly_ever")
def test_a_home_that_dies_leads_to_the_next(new_driver: MakeDriver, new_node: MakeNode) -> None:
    """The node that is asked instead redirects to the dead one until it knows better; it has no model either."""
    first, second = new_node(Home(pushes=9)), new_node(Home())
    homes = [first, first, first, second]

    def at_door(asked: Asked) -> bytes | None:
        if asked.path == "/v1/jobs/job/model":
            return NOTHING_NEW
        return elsewhere(homes.pop(0) if len(homes) > 1 else homes[0], asked)

    door = new_node(at_door)
    driver = new_driver(door)
    driver.push(UPDATE, round=1)
    first.answer = first.die_at
    assert driver.pull(after=1, wait=60) is not None
    assert second.lines == [ASK, PUT, GET]
    assert driver.client.address == second.address


@pytest.mark.usefixtures("hardly_ever")
def test_a_dead_home_does_not_keep_the_model_away(new_driver: MakeDriver, new_node: MakeNode) -> None:
    """The others have made it without this client, and nobody has told the door that its home is dead."""
    home = new_node(Home())
    door = new_node(lambda asked: model(2) if asked.path.endswith("/model") else elsewhere(home, asked))
    driver = new_driver(door)
    driver.push(UPDATE, round=1)
    home.die()
    new = driver.pull(after=1, wait=60)
    assert new is not None
    assert new.version == 2


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "refusal",
    [
        problem(409, "round-closing"),
        problem(429, "no-slot"),
        problem(503, "home-unknown"),
        problem(409, "other-bytes"),
    ],
)
def test_what_may_change_is_asked_again(new_driver: MakeDriver, new_node: MakeNode, refusal: bytes) -> None:
    home = Home(looks=2)
    home.refusal = refusal
    node = new_node(home)
    driver = new_driver(node, patience=0)
    driver.push(UPDATE, round=1)
    home.held.clear()
    assert driver.pull(after=1, wait=60) is not None
    assert node.lines == [PUT, *[ASK, PUT, GET] * 3]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("status", "slug"), [(409, "wrong-round"), (409, "stale-update"), (409, "job-completed")])
def test_a_round_that_is_over_is_left_alone(
    new_driver: MakeDriver, new_node: MakeNode, status: int, slug: str, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(looks=2)
    home.refusal = problem(status, slug)
    node = new_node(home)
    driver = new_driver(node, patience=0)
    driver.push(UPDATE, round=1)
    home.held.clear()
    assert driver.pull(after=1, wait=60) is not None
    assert node.lines == [PUT, ASK, PUT, GET, GET, GET]
    assert not caplog.records


@pytest.mark.usefixtures("at_once")
def test_a_refusal_is_said_and_ends_no_pull(
    new_driver: MakeDriver, new_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(looks=2)
    home.refusal = problem(422, "function-failed")
    node = new_node(home)
    driver = new_driver(node)
    driver.push(UPDATE, round=1)
    home.held.clear()
    assert driver.pull(after=1, wait=60) is not None
    assert node.lines == [PUT, ASK, PUT, GET, GET, GET]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("error", [problem(405, "wrong-method"), problem(404, "unknown-path")])
def test_an_older_server_is_asked_once(new_driver: MakeDriver, new_node: MakeNode, error: bytes) -> None:
    home = Home(looks=3)
    node = new_node(lambda asked: error if asked.line == ASK else home(asked))
    driver = new_driver(node)
    driver.push(UPDATE, round=1)
    assert driver.pull(after=1, wait=60) is not None
    assert node.lines == [PUT, ASK, *[GET] * 4]


@pytest.mark.usefixtures("at_once")
def test_an_update_from_an_older_model_is_known_by_that_one(new_driver: MakeDriver, new_node: MakeNode) -> None:
    held = [problem(404, "not-held"), receipt(200, round=5, staleness=2)]

    def at_home(asked: Asked) -> bytes | None:
        if asked.path.endswith("/model"):
            return model(6) if len(held) < 2 else NOTHING_NEW
        return held.pop(0) if asked.method == "GET" else receipt(round=5, staleness=2)

    node = new_node(at_home)
    driver = new_driver(node)
    assert driver.push(UPDATE, round=3).staleness == 2
    assert driver.pull(after=5, wait=60) is not None
    assert node.lines == [PUT, ASK, PUT, GET]
    assert [asked.target.partition("?")[2] for asked in node.asked[:3]] == ["round=3"] * 3


@pytest.mark.usefixtures("at_once")
def test_what_is_not_kept(new_driver: MakeDriver, new_node: MakeNode) -> None:
    """Updates of other names, of other rounds, of a client that does not want it, and any once there is a model."""
    for number in range(4):
        node = new_node(Home())
        driver = new_driver(node, name="client", keep_until_pulled=number != 0)
        driver.push(UPDATE, round=1, name="another" if number == 1 else None)
        if number == 3:
            driver.pull(after=1)
            node.asked.clear()
        driver.pull(after=2 if number == 2 else 1)
        assert ASK not in node.lines, number


@pytest.mark.usefixtures("at_once")
def test_the_newest_push_counts(new_driver: MakeDriver, new_node: MakeNode) -> None:
    home = Home(pushes=3)
    node = new_node(home)
    driver = new_driver(node)
    driver.push(UPDATE, round=1)
    home.held.clear()
    driver.push({"a": UPDATE["a"] + 1}, round=1)
    home.held.clear()
    assert driver.pull(after=1, wait=60) is not None
    np.testing.assert_array_equal(values(node.asked[-2].body), UPDATE["a"] + 1)


@pytest.mark.usefixtures("at_once")
def test_a_file_is_pushed_again_from_its_path(
    new_driver: MakeDriver, new_node: MakeNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "update"
    save_file(UPDATE, path, {"round": "1"})
    for gone in (False, True):
        home = Home(pushes=1 if gone else 2)
        node = new_node(home)
        driver = new_driver(node)
        driver.push(path)
        home.held.clear()
        if gone:
            path.unlink()
        assert driver.pull(after=1, wait=60) is not None
        assert node.lines == ([PUT, ASK, GET] if gone else [PUT, ASK, PUT, GET])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


def test_arrays_are_referenced_until_there_is_a_model(new_driver: MakeDriver, new_node: MakeNode) -> None:
    driver = new_driver(new_node(Home()))
    array = np.ones(3, np.float32)
    alive = weakref.ref(array)
    driver.push({"a": array}, round=1)
    del array
    gc.collect()
    assert alive() is not None
    driver.pull(after=1)
    gc.collect()
    assert alive() is None


@pytest.mark.usefixtures("at_once")
def test_redirects_are_followed_while_asking(new_driver: MakeDriver, new_node: MakeNode) -> None:
    """Homes have moved: the update is where it was, and the new home knows it."""
    nodes: list[Node] = []
    old = Home(looks=1)

    def at_new_home(asked: Asked) -> bytes | None:
        return elsewhere(nodes[0], asked)

    nodes += [new_node(old), new_node(at_new_home)]
    driver = new_driver(nodes[0])
    driver.push(UPDATE, round=1)
    driver.client._core._session.places.remember(
        driver.client._core._subject("client"), Address.parse(nodes[1].address)
    )
    assert driver.pull(after=1, wait=60) is not None
    assert nodes[1].lines == [ASK]
    assert nodes[0].lines.count(PUT) == 1


def test_the_patience_is_that_of_the_pull(new_driver: MakeDriver, new_node: MakeNode) -> None:
    node = new_node(Home(pushes=2))
    driver = new_driver(node, patience=0.2)
    driver.push(UPDATE, round=1)
    node.die()
    with pytest.raises(errors.ServerUnreachable) as caught:
        driver.pull(after=1, wait=60)
    assert caught.value.attempts > 1


def test_a_killed_server_gets_its_updates_back(own_process: Process, tmp_path: Path) -> None:
    """All that a single server lost when it was killed comes again by itself, if it knows the question."""
    job = make_job(own_process.address, tmp_path, expected=3)
    clients = [Client(own_process.address, job, f"client-{number}") for number in range(3)]
    for client in clients[:2]:
        client.push(client.pull())
    models: list[int] = []

    def wait(client: Client) -> None:
        new = client.pull(after=1, wait=120)
        models.append(new.version if new else 0)

    waiting = [threading.Thread(target=wait, args=(client,)) for client in clients[:2]]
    own_process.kill()
    for thread in waiting:
        thread.start()
    own_process.start()
    clients[2].push(clients[2].pull())
    for thread in waiting:
        thread.join()
    assert models == [2, 2]
    for client in clients:
        client.close()
