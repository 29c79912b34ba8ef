"""NVFLARE's FedAvg with Tributary as its aggregator: the class by itself, and in NVFLARE's simulator."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from process import FUNCTIONS, Process
from scripted import dead
from tributary import Function, Server
from tributary.coordinator import RoundLost

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nvflare.apis.fl_context import FLContext
    from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
    from nvflare.app_common.workflows.base_fedavg import BaseFedAvg

    from tributary.nvflare import TributaryAggregator

#: Seconds that the simulator may take.
PATIENCE = 300


@pytest.fixture(scope="module", autouse=True)
def fedavg(process: Process) -> None:
    with Server(process.address) as server:
        server.apply(Function("fedavg", str(FUNCTIONS / "fedavg.wasm")))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What aggregators log; by itself a component has nowhere to log to."""
    lines: list[str] = []
    for level in ("info", "warning", "error"):
        monkeypatch.setattr(TributaryAggregator, level, lambda _, message: lines.append(message))
    return lines


def result(client: str, steps: Any, number: float, **more: Any) -> FLModel:
    params = {
        "w": np.full((2, 3), number, np.float32),
        "b": np.full(4, number / 3, np.float64),
        "n": np.array(int(number)),
    }
    meta = {"client_name": client, "NUM_STEPS_CURRENT_ROUND": steps}
    return FLModel(**{"params": params, "metrics": {"loss": number}, "meta": meta, "current_round": 0, **more})


@pytest.mark.parametrize("kind", [ParamsType.FULL, ParamsType.DIFF])
def test_rounds_are_as_nvflares_own(process: Process, said: list[str], kind: ParamsType) -> None:
    aggregator = TributaryAggregator(process.address)
    for steps in ((1, 2, 5), (4, None), (3, -1, 2, 2), (np.int64(10), "90", np.float32(2.5)), ("some", True, 3)):
        results = [result(f"site {i}", step, i + 1.5, params_type=kind) for i, step in enumerate(steps)]
        aggregator.reset_stats()
        for one in results:
            aggregator.accept_model(one)
        mine, theirs = aggregator.aggregate_model(), BaseFedAvg.aggregate_fn(results)
        assert mine.params_type == theirs.params_type == kind
        assert list(mine.params) == list(theirs.params)
        for name, values in theirs.params.items():
            np.testing.assert_allclose(mine.params[name], values, rtol=1e-6, err_msg=name)
        assert mine.metrics == pytest.approx(theirs.metrics)


def test_a_result_that_does_not_fit_is_left_out_and_logged(process: Process, said: list[str]) -> None:
    aggregator = TributaryAggregator([dead(), process.address])
    aggregator.accept_model(result("a", 1, 1.0))
    wrong = result("b", 1, 2.0)
    wrong.params["w"] = wrong.params["w"].T
    aggregator.accept_model(wrong)
    aggregator.accept_model(result("c", 1, 3.0))
    np.testing.assert_array_equal(aggregator.aggregate_model().params["w"], np.full((2, 3), 2.0))
    assert any("the result of b does not count: LayoutMismatch" in line for line in said)


def test_most_results_decide_the_layout(process: Process, said: list[str]) -> None:
    aggregator = TributaryAggregator(process.address)
    for _ in range(2):
        aggregator.reset_stats()
        for client, length, number in (("odd", 3, 5.0), ("a", 2, 1.0), ("b", 2, 2.0), ("c", 2, 3.0)):
            aggregator.accept_model(result(client, 1, number, params={"w": np.full(length, number, np.float32)}))
        np.testing.assert_array_equal(aggregator.aggregate_model().params["w"], [2.0, 2.0])
    left_out = [line for line in said if "the result of odd does not count: LayoutMismatch" in line]
    assert len(left_out) == 2


def test_the_global_model_decides_the_layout(process: Process, said: list[str]) -> None:
    aggregator = TributaryAggregator(process.address)
    context = FLContext()
    context.set_prop("global_model", {"weights": {"w": np.zeros(2)}, "meta": {}}, private=True)
    aggregator.fl_ctx = context
    for client, length in (("odd", 3), ("as odd", 3), ("good", 2)):
        aggregator.accept_model(result(client, 1, 1.0, params={"w": np.ones(length, np.float32)}))
    # What agrees with it is not held.
    assert aggregator._taken == 1
    np.testing.assert_array_equal(aggregator.aggregate_model().params["w"], [1.0, 1.0])
    assert sum("does not count: LayoutMismatch" in line for line in said) == 2


def test_parameters_come_back_as_they_went(process: Process, said: list[str]) -> None:
    aggregator = TributaryAggregator(process.address)
    kinds = {"f2": np.float16, "f4": np.float32, "f8": np.float64, "bf16": ml_dtypes.bfloat16}
    for client, number in (("a", 1.0), ("b", 2.0)):
        params = {name: np.full(3, number, kind) for name, kind in kinds.items()}
        params["wider"] = np.full((), number, np.float16 if client == "a" else np.float32)
        aggregator.accept_model(result(client, 1, number, params=params))
    averaged = aggregator.aggregate_model().params
    assert {name: values.dtype for name, values in averaged.items()} == {
        **{name: np.dtype(kind) for name, kind in kinds.items()},
        "wider": np.dtype(np.float32),
    }
    for values in averaged.values():
        np.testing.assert_array_equal(values.astype("f8"), 1.5)


def test_names_stay_different(process: Process, said: list[str]) -> None:
    aggregator = TributaryAggregator(process.address)
    names = ["site 1", "site-1", "site/1", "x" * 130 + "1", "x" * 130 + "2", "..", ".", "", "client-1", "\ud800"]
    for number, name in enumerate(names):
        aggregator.accept_model(result(name, 1, float(number), params={"w": np.full(1, number, np.float32)}))
    np.testing.assert_array_equal(aggregator.aggregate_model().params["w"], [np.mean(range(len(names)))])
    assert not [line for line in said if "does not count" in line]


def test_whole_numbers_only_are_averaged_as_nvflare_does(process: Process, said: list[str]) -> None:
    aggregator = TributaryAggregator(process.address)
    results = [result(f"site-{n}", n, n, params={"n": np.array([n, 2 * n]), "e": np.zeros(0)}) for n in (1, 2)]
    for one in [*results, result("floats", 1, 1.0), result("empty", 1, 1.0, params={})]:
        aggregator.accept_model(one)
    mine, theirs = aggregator.aggregate_model(), BaseFedAvg.aggregate_fn(results)
    for name, values in theirs.params.items():
        np.testing.assert_array_equal(mine.params[name], values)
    assert sum("does not count: it has other parameters than the model" in line for line in said) == 2


def test_a_round_without_metrics_of_all_has_none(process: Process, said: list[str]) -> None:
    aggregator = TributaryAggregator(process.address)
    aggregator.accept_model(result("a", 1, 1.0))
    aggregator.accept_model(result("b", 1, 1.0, metrics=None))
    assert aggregator.aggregate_model().metrics is None


def test_a_round_without_results_is_lost(process: Process) -> None:
    with pytest.raises(RoundLost, match="no result of this round counts"):
        TributaryAggregator(process.address).aggregate_model()


def test_it_runs_in_the_simulator(process: Process, server: Server, tmp_path: Path) -> None:
    simulate = Path(__file__).parent / "simulate.py"
    done = subprocess.run(
        [sys.executable, str(simulate), process.address, str(tmp_path)],
        env={**os.environ, "NVFLARE_SIMULATOR_WORKSPACE_ROOT": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    status = server.job("simulated")
    assert (status.phase, status.version) == ("completed", 3), log
    assert [server.round("simulated", number).contributors for number in (1, 2)] == [2, 2]
    (saved,) = tmp_path.rglob("server.npy")
    # Each round adds the mean of 1 and 2, weighted by 1 and 2.
    np.testing.assert_allclose(np.load(saved), np.full((2, 3), 2 * 5 / 3), rtol=1e-6)
