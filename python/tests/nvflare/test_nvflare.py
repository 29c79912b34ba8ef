"""NVFLARE's FedAvg with Tributary as its aggregator: the class by itself, and in NVFLARE's simulator."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from process import FUNCTIONS, Process
from scripted import dead
from tributary import Function, Server
from tributary.coordinator import RoundLost

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
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
    for level in ("info", "error"):
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
    for steps in ((1, 2, 5), (4, None), (3, -1, 2, 2)):
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
