"""The real server, started once for most tests; jobs of their own for each."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from drivers import AsyncDriver, BlockingDriver, Driver
from process import FUNCTIONS, Process
from scripted import Answer, Node
from tributary import Client, Function, Job, Server

_numbers = itertools.count()

Tensors = Mapping[str, np.ndarray[Any, Any]]
MakeJob = Callable[..., str]
MakeClient = Callable[..., Client]

SMALL = {
    "head.bias": np.zeros(3, np.float32),
    "head.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "step": np.zeros((), np.float32),
}


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The server that tests share."""
    with Process(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def own_process(tmp_path: Path) -> Iterator[Process]:
    """A server that the test may kill."""
    with Process(tmp_path / "server") as running:
        yield running


@pytest.fixture
def server(process: Process) -> Iterator[Server]:
    with Server(process.address) as operator:
        yield operator


def make_job(
    address: str, folder: Path, tensors: Tensors | None = None, *, name: str | None = None, **fields: Any
) -> str:
    """Creates a job with that model; gives its name."""
    name = name or f"job-{next(_numbers)}"
    path = folder / f"{name}.safetensors"
    save_file(dict(SMALL if tensors is None else tensors), path)
    fields = {"expected": 1, "config": {"accumulate": "f64"}, "clients_max": 64, **fields}
    job = Job(name, fields.pop("function", "fedavg"), str(path), **fields)
    module = FUNCTIONS / f"{job.function}.wasm"
    with Server(address) as operator:
        operator.apply([Function(job.function, str(module)), job])
    return name


@pytest.fixture
def new_job(process: Process, tmp_path: Path) -> MakeJob:
    """Creates a job on the shared server."""

    def make(tensors: Tensors | None = None, **fields: Any) -> str:
        return make_job(process.address, tmp_path, tensors, **fields)

    return make


@pytest.fixture
def new_client(process: Process) -> Iterator[MakeClient]:
    """Creates clients on the shared server, and closes them."""
    clients: list[Client] = []

    def make(job: str, name: str = "client-00", address: str | None = None, **options: Any) -> Client:
        clients.append(Client(address or process.address, job, name, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


MakeDriver = Callable[..., Driver]
MakeNode = Callable[[Answer], Node]


@pytest.fixture(params=[BlockingDriver, AsyncDriver], ids=["blocking", "asyncio"])
def new_driver(request: pytest.FixtureRequest) -> Iterator[MakeDriver]:
    """Creates clients of both kinds, one kind in each run of a test, and closes them."""
    drivers: list[Driver] = []

    def make(*nodes: Node | str, name: str | None = "client", **options: Any) -> Driver:
        addresses = [node if isinstance(node, str) else node.address for node in nodes]
        drivers.append(request.param(addresses[0] if len(addresses) == 1 else addresses, name, **options))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()


@pytest.fixture
def new_node() -> Iterator[MakeNode]:
    """Creates scripted nodes, and ends them."""
    with contextlib.ExitStack() as nodes:
        yield lambda answer: nodes.enter_context(Node(answer))
