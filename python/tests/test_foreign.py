"""A foreign program submits updates by events: nats-py, an object store, files at a URL, and nothing of Tributary's."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest
from nats.js import JetStreamContext
from safetensors.numpy import load, save

from conftest import SMALL, make_job
from process import GIVEN_UP_AFTER
from several import PREFIX, Several, nats_server
from tributary import Client

Update = dict[str, np.ndarray[Any, Any]]

pytestmark = pytest.mark.skipif(
    nats_server() is None and os.environ.get("TRIBUTARY_REQUIRE_NATS") != "1", reason="nats-server is missing"
)


class Files(http.server.ThreadingHTTPServer):
    """Serves files; the first who asks for one that is held waits for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.held: set[str] = set()
        self.holding = threading.Event()
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def put(self, path: str, file: bytes, *, held: bool = False) -> str:
        """The URL of a file from now on."""
        self.files[path] = file
        self.held |= {path} if held else set()
        return f"{self.url}{path}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Files

    def do_GET(self) -> None:
        files = self.server
        files.asked.append(self.path)
        file = files.files[self.path]
        self.send_response(200)
        self.send_header("content-length", str(len(file)))
        self.end_headers()
        if self.path in files.held:
            files.held.remove(self.path)
            self.wfile.write(file[:100])
            files.holding.set()
            threading.Event().wait(GIVEN_UP_AFTER)
        self.wfile.write(file)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    with Files() as server:
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Several]:
    options = ["--fetch-from", f"{files.url}/updates"]
    with Several(tmp_path_factory.mktemp("several"), 2, options) as processes:
        yield processes


def connected(several: Several, scenario: Callable[[JetStreamContext], Awaitable[None]]) -> None:
    """Runs a scenario of a program that knows NATS."""

    async def run() -> None:
        connection = await nats.connect(several.nats)
        try:
            await asyncio.wait_for(scenario(connection.jetstream()), GIVEN_UP_AFTER)
        finally:
            await connection.close()

    asyncio.run(run())


def new_job(several: Several, tmp_path: Path, **fields: Any) -> str:
    """A job whose sums are exact."""
    return make_job(several.controller, tmp_path, config={"accumulate": "exact"}, **fields)


def updates(count: int) -> dict[str, tuple[Update, float]]:
    random = np.random.default_rng(count)
    return {
        f"client-{number}": (
            {name: random.normal(size=x.shape).astype("f4") for name, x in SMALL.items()},
            1.0 + number,
        )
        for number in range(count)
    }


def exact(sent: dict[str, tuple[Update, float]]) -> Update:
    """Their mean by fixed-point sums, to the bit."""
    step = float(1 << 32)
    total = sum(int(weight * step) for _, weight in sent.values())

    def mean(name: str) -> np.ndarray[Any, Any]:
        terms = [np.rint(update[name].astype("f8") * weight * step).astype("i8") for update, weight in sent.values()]
        return np.asarray(np.sum(terms, axis=0).astype("f8") / float(total), dtype="f4")

    return {name: mean(name) for name in SMALL}


def event(job: str, client: str, weight: float = 1.0, **data: Any) -> dict[str, Any]:
    data = {"client": client, "round": 1, "weight": weight, **data}
    return {
        "specversion": "1.0",
        "id": f"{job}-{client}",
        "source": "/programs/foreign",
        "type": "dev.tributary.update.submitted",
        "subject": f"jobs/{job}",
        "data": data,
    }


async def publish(stream: JetStreamContext, job: str, submitted: dict[str, Any] | bytes) -> None:
    payload = submitted if isinstance(submitted, bytes) else json.dumps(submitted).encode()
    await stream.publish(f"{PREFIX}.updates.{job}", payload)


def model(several: Several, job: str) -> Update:
    with Client(several.addresses, job, "reader", patience=GIVEN_UP_AFTER) as client:
        pulled = client.pull(after=1, wait=GIVEN_UP_AFTER)
        assert pulled is not None
        assert pulled.version == 2
        return {name: np.array(array) for name, array in pulled.items()}


def assert_same(found: Update, expected: Update) -> None:
    for name, array in expected.items():
        assert array.tobytes() == found[name].tobytes(), name


def test_a_round_of_updates_from_the_object_store_and_from_urls(several: Several, files: Files, tmp_path: Path) -> None:
    job = new_job(several, tmp_path, expected=12, policy="spread")
    sent = updates(12)

    async def scenario(stream: JetStreamContext) -> None:
        heard = await stream.subscribe(f"{PREFIX}.events.>", ordered_consumer=True)
        bucket = await stream.object_store(f"{PREFIX}_updates")
        for number, (client, (update, weight)) in enumerate(sent.items()):
            if number % 2:
                reference: dict[str, Any] = {"url": files.put(f"/updates/{job}/{client}", save(update))}
            else:
                name = f"{job}/{client}.safetensors"
                await bucket.put(name, save(update))
                reference = {"object": {"bucket": "updates", "name": name}}
            # What is published twice counts once.
            for _ in range(2):
                await publish(stream, job, event(job, client, weight, **reference))
        found = await asyncio.to_thread(model, several, job)
        assert_same(found, exact(sent))
        # The world is told once, whoever of the nodes leads; each update is told by its home.
        told: list[str] = []

        async def hear() -> None:
            message = json.loads((await heard.next_msg(GIVEN_UP_AFTER)).data)
            if message.get("subject") == f"jobs/{job}" and message["data"].get("round", 1) == 1:
                told.append(message["type"].removeprefix("dev.tributary."))

        while "model.published" not in told or told.count("update.accepted") < len(sent):
            await hear()
        # All is told; what is told again would come now.
        await asyncio.sleep(0.5)
        while heard.pending_msgs:
            await hear()
        once = ["round.opened", "round.closed", "round.completed", "model.published"]
        assert {kind: told.count(kind) for kind in once} == dict.fromkeys(once, 1), told
        assert told.count("update.accepted") == len(sent)

    connected(several, scenario)


def test_what_is_refused_is_told(several: Several, files: Files, tmp_path: Path) -> None:
    job = new_job(several, tmp_path, expected=1)
    file = save(SMALL)

    async def scenario(stream: JetStreamContext) -> None:
        refused = await stream.subscribe(f"{PREFIX}.events.update.refused.{job}", ordered_consumer=True)
        wrong: dict[str, tuple[dict[str, Any], int, str]] = {
            "other-host": ({"url": "http://localhost:1/updates/a"}, 403, "reference-not-allowed"),
            "no-object": ({"object": {"bucket": "updates", "name": "nothing"}}, 422, "reference-not-found"),
            "no-bucket": ({"object": {"bucket": "models", "name": "a"}}, 403, "reference-not-allowed"),
            "no-model": ({"url": files.put("/updates/no-model", b"nonsense!")}, 400, "malformed-update"),
            "other": (
                {"url": files.put("/updates/other", file), "digest": "sha256:" + "0" * 64},
                422,
                "digest-mismatch",
            ),
        }
        for client, (reference, _, _) in wrong.items():
            await publish(stream, job, event(job, client, **reference))
        await publish(stream, job, b"not even JSON")
        told = [json.loads((await refused.next_msg(GIVEN_UP_AFTER)).data) for _ in range(len(wrong) + 1)]
        for one in told:
            assert (one["type"], one["source"]) == ("dev.tributary.update.refused", f"/jobs/{job}")
            problem = one["data"]["problem"]
            client = one["data"].get("client")
            slug = problem["type"].rpartition("/")[2]
            if client is None:
                assert (problem["status"], slug) == (400, "malformed-event")
            else:
                assert (problem["status"], slug) == wrong.pop(client)[1:]
                assert one["data"]["event"] == {"id": f"{job}-{client}", "source": "/programs/foreign"}
        assert not wrong
        # All of it is done with, and a good one goes on its way.
        await publish(stream, job, event(job, "good", url=files.put("/updates/good", file)))
        assert_same(await asyncio.to_thread(model, several, job), load(file))
        info = await stream.stream_info(f"{PREFIX}_updates".upper())
        assert info.state.messages == 0

    connected(several, scenario)


def test_an_update_is_fetched_again_when_the_node_that_fetched_it_is_killed(
    several: Several, files: Files, tmp_path: Path
) -> None:
    """The last of the tests: a node is gone after it."""
    job = new_job(several, tmp_path, expected=1, nodes_max=1)
    sent = updates(1)
    (client, (update, weight)), *_ = sent.items()

    async def scenario(stream: JetStreamContext) -> None:
        path = f"/updates/{job}"
        url = files.put(path, save(update), held=True)
        await publish(stream, job, event(job, client, weight, url=url))
        assert await asyncio.to_thread(files.holding.wait, GIVEN_UP_AFTER)
        with Client(several.addresses, job, "reader") as reader:
            reader.pull()
            several.kill(several.node_at(reader.address))
        assert_same(await asyncio.to_thread(model, several, job), exact(sent))
        assert files.asked.count(path) == 2

    connected(several, scenario)
