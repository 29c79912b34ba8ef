"""examples/flower_digits, as it stands: on SuperLink and SuperNodes, and in the simulation engine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from federation import Federation
from grids import numpy, record
from process import FUNCTIONS, ROOT, Process
from tributary import Function, Server
from tributary.flower import TributaryStrategy, direct_mod

EXAMPLE = ROOT / "examples/flower_digits"
DATA = ROOT / "examples/digits/data/optdigits.txt"
NODES, ROUNDS = 4, 5
#: On SuperLink and SuperNodes every message starts a process, which takes seconds.
FEW_NODES, FEW_ROUNDS = 2, 2

pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def fedavg(process: Process) -> None:
    with Server(process.address) as server:
        server.apply(Function("fedavg", str(FUNCTIONS / "fedavg.wasm")))


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """The example's modules."""
    sys.path.insert(0, str(EXAMPLE))
    import flower_digits.client_app
    import flower_digits.task

    yield flower_digits
    sys.path.remove(str(EXAMPLE))


# === SuperLink and SuperNodes ===


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("flower"), FEW_NODES) as running:
        yield running


@pytest.mark.parametrize("direct", [False, True], ids=["relayed", "direct"])
def test_its_rounds_on_superlink_and_supernodes_are_right(
    federation: Federation, process: Process, example: Any, tmp_path: Path, direct: bool
) -> None:
    app, saved = tmp_path / "app", tmp_path / "model.npz"
    shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("__pycache__"))
    config: dict[str, str | int] = {
        "tributary": process.address,
        "direct": direct,
        "data": str(DATA),
        "save": str(saved),
    }
    with Server(process.address) as server:
        before = {job.name for job in server.jobs()}
        log = federation.run(app, {**config, "nodes": FEW_NODES, "num-server-rounds": FEW_ROUNDS})
        names = {job.name for job in server.jobs()} - before
        assert len(names) == 1, log
        contributors = [status.contributors for status in server.rounds(names.pop())]
    assert contributors == [FEW_NODES] * FEW_ROUNDS, log
    assert f"aggregate_evaluate: Received {FEW_NODES} results and 0 failures" in log
    expected, got = alone(example.task), np.load(saved)
    assert list(got) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=0, atol=1e-5, err_msg=name)


def alone(task: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The model that the few nodes' few rounds make, computed here."""
    images, _ = task.load(str(DATA))
    shards = [task.shard(images, node, FEW_NODES) for node in range(FEW_NODES)]
    model: dict[str, np.ndarray[Any, Any]] = task.initial()
    for _ in range(FEW_ROUNDS):
        updates = [{name: values.copy() for name, values in model.items()} for _ in shards]
        for update, shard in zip(updates, shards, strict=True):
            task.train(update, shard, 2, 0.1)
        weights = [len(labels) for _, labels in shards]
        model = {
            name: np.average([update[name] for update in updates], axis=0, weights=weights).astype(np.float32)
            for name in model
        }
    return model


# === the simulation engine ===


def test_its_parameters_are_fedavgs_in_the_simulation(process: Process, example: Any) -> None:
    theirs = simulate(FedAvg(min_train_nodes=NODES), example)
    for direct in (False, True):
        mine = simulate(TributaryStrategy(process.address, direct=direct, min_train_nodes=NODES), example)
        assert list(mine) == list(theirs)
        for name, values in mine.items():
            np.testing.assert_allclose(values, theirs[name], rtol=0, atol=1e-5, err_msg=name)


def simulate(strategy: FedAvg, example: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The model after all rounds with the example's clients."""
    from flwr.simulation import run_simulation

    found: list[ArrayRecord] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        initial = record(example.task.initial())
        found.append(strategy.start(grid, initial, num_rounds=ROUNDS).arrays)

    nodes = ClientApp(mods=[configured, direct_mod])
    nodes.train()(example.client_app.train)
    nodes.evaluate()(example.client_app.evaluate)
    backend: Any = {"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1, "num_gpus": 0}}
    run_simulation(app, nodes, NODES, backend_config=backend)
    return numpy(found[0])


def configured(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """The simulation engine's own call has no way to give a configuration of the run."""
    config: dict[str, bool | float | int | str] = {"data": str(DATA), "local-epochs": 2, "learning-rate": 0.1}
    return call_next(message, Context(context.run_id, context.node_id, context.node_config, context.state, config))
