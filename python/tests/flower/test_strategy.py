"""A strategy against a real server, beside Flower's own; nodes are functions."""

from __future__ import annotations

import fcntl
import gc
import re
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg, Result

from grids import LocalGrid, Train, adds, fails, flower_log, numpy, received, record, reply, sends
from process import FUNCTIONS, Process, eventually, free_port
from scripted import dead
from tributary import Function, Server, errors
from tributary.flower import JobExists, TributaryStrategy, UnsupportedArray
from tributary.flower import grid as grid_module

MODEL: dict[str, np.ndarray[Any, Any]] = {
    "zeta": np.arange(6, dtype=np.float32).reshape(2, 3),
    "batches": np.array(8, np.int64),
    "alpha": np.linspace(-1, 1, 5),
    "half": np.array([0.5, -2], np.float16),
    "scale": np.array(0.25, np.float32),
    "mask": np.array([True, False]),
}
BOTH = pytest.mark.parametrize("direct", [False, True], ids=["relayed", "direct"])


@pytest.fixture(scope="session", autouse=True)
def fedavg(process: Process) -> None:
    with Server(process.address) as server:
        server.apply(Function("fedavg", str(FUNCTIONS / "fedavg.wasm")))


def play(strategy: FedAvg, grid: LocalGrid, rounds: int = 1, model: Any = None, **options: Any) -> Result:
    return strategy.start(grid, record(MODEL if model is None else model), num_rounds=rounds, **options)


def all_of(train: Mapping[int, Train], **options: Any) -> dict[str, Any]:
    return {"min_train_nodes": len(train), "min_available_nodes": len(train), "min_evaluate_nodes": 0, **options}


def ours(process: Process, **options: Any) -> TributaryStrategy:
    return TributaryStrategy(process.address, **options)


# === as FedAvg ===


@BOTH
def test_models_are_fedavgs(process: Process, direct: bool) -> None:
    nodes = {node: adds(node / 8, weight=10 * node) for node in (1, 2, 3, 4, 5)}
    theirs = play(FedAvg(**all_of(nodes)), LocalGrid(nodes), rounds=5)
    result = play(ours(process, direct=direct, **all_of(nodes)), LocalGrid(nodes), rounds=5)
    expected, got = numpy(theirs.arrays), numpy(result.arrays)
    assert list(got) == list(MODEL)
    for name, values in got.items():
        assert (values.dtype, values.shape) == (expected[name].dtype, expected[name].shape), name
        tolerance = 2e-3 if values.dtype == np.float16 else 1e-6
        np.testing.assert_allclose(values, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)
    for server_round, metrics in theirs.train_metrics_clientapp.items():
        assert dict(result.train_metrics_clientapp[server_round]) == pytest.approx(dict(metrics))


@BOTH
def test_any_of_several_addresses_will_do(process: Process, direct: bool) -> None:
    addresses = (dead(), process.address)
    nodes = {node: adds(node) for node in (1, 2)}
    strategy = TributaryStrategy(addresses, direct=addresses if direct else False, **all_of(nodes))
    result = play(strategy, LocalGrid(nodes), rounds=2, model={"w": np.zeros(2, np.float32)})
    np.testing.assert_allclose(numpy(result.arrays)["w"], [3, 3])


@BOTH
def test_the_log_is_fedavgs(process: Process, direct: bool) -> None:
    nodes = {1: adds(1), 2: adds(2), 3: fails, 4: adds(3), 5: adds(4)}
    model = {"w": np.zeros(4, np.float32)}

    def lines(strategy: FedAvg) -> list[str]:
        def measured(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            return MetricRecord({"first": float(arrays["w"].numpy()[0])})

        with flower_log() as said:
            play(strategy, LocalGrid(nodes), rounds=3, model=model, evaluate_fn=measured)
        return [line for line in said if not re.search("Starting|finished in", line)]

    theirs = lines(FedAvg(**all_of(nodes)))
    mine = lines(ours(process, direct=direct, **all_of(nodes)))
    at = mine.index("\t└──> Tributary:")
    assert any("RuntimeError" in line for line in theirs)
    assert mine[:at] + mine[at + 4 :] == theirs


def test_evaluation_and_its_metrics_are_fedavgs(process: Process) -> None:
    nodes = {node: adds(node) for node in (1, 2, 3, 4)}
    results = [
        play(strategy, LocalGrid(nodes), rounds=2, model={"w": np.zeros(4, np.float32)})
        for strategy in (FedAvg(), ours(process), ours(process, direct=True))
    ]
    assert results[0].evaluate_metrics_clientapp[2] == {"sum": 20.0}
    assert all(result.evaluate_metrics_clientapp == results[0].evaluate_metrics_clientapp for result in results)


@pytest.mark.parametrize("make", [FedAvg, TributaryStrategy])
@pytest.mark.parametrize(
    "metrics",
    [{"loss": 1.0}, {"num-examples": [1, 2], "loss": 1.0}, {"num-examples": 1, "other": 1.0}],
    ids=["no weight", "a list", "other metrics"],
)
def test_replies_without_a_weight_end_the_run_as_fedavgs(process: Process, make: Any, metrics: Any) -> None:
    nodes = {1: adds(1), 2: sends(MODEL, **metrics)}
    strategy = make() if make is FedAvg else make(process.address)
    with pytest.raises(InconsistentMessageReplies):
        play(strategy, LocalGrid(nodes))


@BOTH
@pytest.mark.parametrize("records", [0, 2])
def test_replies_without_one_record_of_arrays_end_the_run_as_fedavgs(
    process: Process, direct: bool, records: int
) -> None:
    def train(message: Message, context: Context) -> Message:
        content = {f"arrays-{number}": record(received(message)) for number in range(records)}
        return Message(RecordDict({**content, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    with pytest.raises(InconsistentMessageReplies, match="exactly one ArrayRecord"):
        play(ours(process, direct=direct), LocalGrid({1: train, 2: train}))


@BOTH
def test_a_round_in_which_nobody_answers_changes_nothing(process: Process, direct: bool) -> None:
    ill = {"in": 0}

    def train(message: Message, context: Context) -> Message:
        ill["in"] += 1
        return fails(message, context) if ill["in"] <= 2 else adds(1)(message, context)

    nodes = {1: train, 2: train}
    result = play(ours(process, direct=direct, **all_of(nodes)), LocalGrid(nodes), rounds=3)
    np.testing.assert_allclose(numpy(result.arrays)["zeta"], MODEL["zeta"] + 2)
    assert list(result.train_metrics_clientapp) == [2, 3]


@BOTH
def test_rounds_of_any_size_close(process: Process, direct: bool) -> None:
    sizes = iter([2, 5, 3, 1200, 4])

    class Sampling(TributaryStrategy):
        def configure_train(self, *arguments: Any) -> list[Message]:
            messages = list(super().configure_train(*arguments))
            size = next(sizes)
            assert self._run is not None
            self._run.coordinator.expect(size)
            return messages[:size]

    nodes = {node: adds(1) for node in range(1, 1201)}
    model = {"w": np.zeros(2, np.float32)}
    strategy = Sampling(process.address, direct=direct, fraction_evaluate=0.0)
    result = play(strategy, LocalGrid(nodes), rounds=5, model=model)
    np.testing.assert_array_equal(numpy(result.arrays)["w"], [5, 5])


@BOTH
def test_late_nodes_are_left_behind(process: Process, direct: bool) -> None:
    nodes = {node: adds(node) for node in (1, 2, 3)}
    strategy = ours(process, direct=direct, **all_of(nodes))
    result = play(strategy, LocalGrid(nodes, late=[2]), rounds=2, timeout=0.5)
    np.testing.assert_allclose(numpy(result.arrays)["zeta"], MODEL["zeta"] + 4)


def test_options_of_metrics_and_keys_are_used(process: Process) -> None:
    def train(message: Message, context: Context) -> Message:
        assert "settings" in message.content.config_records
        arrays = {name: values + 1 for name, values in numpy(message.content.array_records["model"]).items()}
        return reply(message, arrays, examples=3)

    def count(contents: list[RecordDict], weighted_by: str) -> MetricRecord:
        return MetricRecord({"replies": len(contents), weighted_by: 0})

    strategy = ours(
        process,
        weighted_by_key="examples",
        arrayrecord_key="model",
        configrecord_key="settings",
        fraction_evaluate=0.0,
        train_metrics_aggr_fn=count,
    )
    result = play(strategy, LocalGrid({1: train, 2: train}), model={"w": np.zeros(2, np.float32)})
    assert result.train_metrics_clientapp[1] == {"replies": 2, "examples": 0}


# === memory ===


def test_the_server_app_holds_one_update_at_a_time(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "TOGETHER", 1)
    arrays: list[weakref.ref[Array]] = []
    alive: list[int] = []

    def train(message: Message, context: Context) -> Message:
        answer = adds(1)(message, context)
        arrays.extend(map(weakref.ref, answer.content.array_records["arrays"].values()))
        return answer

    def look(number: int) -> None:
        gc.collect()
        alive.append(sum(array() is not None for array in arrays))

    nodes = dict.fromkeys(range(1, 11), train)
    grid = LocalGrid(nodes, mods=False)
    grid.before_reply = look
    play(ours(process, fraction_evaluate=0.0, **all_of(nodes)), grid, model={"w": np.zeros(9, np.float32)})
    assert alive == [0] * 10


@pytest.mark.parametrize("mods", [True, False])
def test_arrays_do_not_pass_flower_in_direct_mode(process: Process, mods: bool) -> None:
    passed: list[int] = []

    class Watching(LocalGrid):
        def push_messages(self, messages: Any) -> Any:
            passed.extend(message.content.array_records["arrays"].count_bytes() for message in messages)
            return super().push_messages(messages)

    model = {"w": np.zeros(100_000, np.float32), "n": np.array(1)}
    with flower_log() as said:
        play(ours(process, direct=True), Watching({1: adds(1), 2: adds(2)}, mods=mods), model=model)
    assert max(passed) < 1000
    assert any("ClientApp(mods=[direct_mod])" in line or "KeyError" in line for line in said) == (not mods)


# === bad replies ===

GOOD = {"num-examples": 1, "loss": 0.0}
BAD = {
    "LayoutMismatch: tensor 'w': expected shape (2,), got (3,)": sends({"w": np.ones(3, np.float32)}),
    "LayoutMismatch: tensor 'w': expected a dtype like float32, got int64": sends({"w": np.ones(2, np.int64)}),
    "missing are 'w', unexpected are 'v'": sends({"v": np.ones(2, np.float32)}),
    "got 2: missing are none, unexpected are 'v'": sends({n: np.ones(2, np.float32) for n in "wv"}),
    "UnsupportedArray: array 'w' has dtype complex64": sends({"w": np.ones(2, np.complex64)}),
    "NonFinite": sends({"w": np.array([1, np.nan], np.float32)}),
    "BadWeight: ": sends({"w": np.ones(2, np.float32)}, **{"num-examples": 0, "loss": 0.0}),
    "BadWeight:": sends({"w": np.ones(2, np.float32)}, **{"num-examples": -2.5, "loss": 0.0}),
    "UnsupportedArray": sends({"w": np.array(["text", "s"])}),
}


@BOTH
@pytest.mark.parametrize("said", BAD, ids=range(len(BAD)))
def test_a_bad_reply_is_a_failure_that_says_why_and_others_go_on(process: Process, direct: bool, said: str) -> None:
    nodes = {1: adds(1), 2: BAD[said], 3: adds(3)}
    with flower_log() as lines:
        strategy = ours(process, direct=direct, **all_of(nodes))
        result = play(strategy, LocalGrid(nodes), rounds=2, model={"w": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(numpy(result.arrays)["w"], [4, 4])
    assert lines.count("aggregate_train: Received 2 results and 1 failures") == 2
    reasons = [line for line in lines if "error in reply from node 2" in line]
    words = [word.strip() for word in said.split(":", 1)]
    assert len(reasons) == 2
    assert all(word in reasons[0] for word in words)


# === the server ===


def test_a_model_that_no_job_can_hold_is_refused_at_the_start(process: Process) -> None:
    with pytest.raises(UnsupportedArray, match="array 'w' has dtype complex128"):
        play(ours(process), LocalGrid({1: adds(1), 2: adds(1)}), model={"w": np.ones(2, np.complex128)})


def test_a_job_of_that_name_is_not_touched(process: Process) -> None:
    nodes = {1: adds(1), 2: adds(1)}
    play(ours(process, job="taken"), LocalGrid(nodes))
    with pytest.raises(JobExists, match="has a job taken already"):
        play(ours(process, job="taken"), LocalGrid(nodes))


def test_a_job_is_completed_after_the_run_and_keeps_its_model(process: Process, server: Server) -> None:
    grid = LocalGrid({1: adds(1), 2: adds(1)})
    play(ours(process), grid, rounds=2)
    status = server.job(f"flower-{grid.run.run_id}")
    assert (status.phase, status.version, status.rounds) == ("completed", 3, 2)


def test_one_strategy_may_run_twice(process: Process, server: Server) -> None:
    grid, strategy = LocalGrid({1: adds(1), 2: adds(1)}), ours(process)
    play(strategy, grid)
    play(strategy, grid)
    assert server.job(f"flower-{grid.run.run_id}-2").version == 2


def test_a_missing_function_is_named_or_made(process: Process, server: Server) -> None:
    nodes = {1: adds(1), 2: adds(1)}
    with pytest.raises(errors.UnknownFunction, match="has no function average: apply its manifest"):
        play(ours(process, function="average"), LocalGrid(nodes))
    module = FUNCTIONS / "fedavg.wasm"
    play(ours(process, function="average", module=module, config={"accumulate": "exact"}), LocalGrid(nodes))
    assert server.function("average").revision == 1


def test_a_server_that_is_not_there_is_named_before_anything_is_sent() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    grid = LocalGrid({1: adds(1), 2: adds(1)})
    with pytest.raises(errors.ServerUnreachable, match=re.escape(address)):
        play(TributaryStrategy(address, patience=0), grid)
    assert grid.replies == 0


@pytest.fixture
def mortal(own_process: Process) -> Process:
    with Server(own_process.address) as server:
        server.apply(Function("fedavg", str(FUNCTIONS / "fedavg.wasm")))
    return own_process


def restart(mortal: Process) -> None:
    """Kills it, and starts it again once its state is free: a worker that was just being started holds it a moment."""
    mortal.kill()
    (database,) = (mortal.folder / "state").glob("*.redb")

    def free() -> bool:
        with database.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    eventually(free, f"nobody holds {database}")
    mortal.start()


@pytest.mark.parametrize("killed_before", [1, 3, 4], ids=["the first", "the third", "the last"])
def test_a_server_that_dies_in_a_round_costs_the_updates_that_it_had(mortal: Process, killed_before: int) -> None:
    nodes = {node: adds(2**node) for node in (1, 2, 3, 4)}
    order: list[int] = []

    def die(number: int) -> None:
        if number == killed_before:
            restart(mortal)

    def noted(node: int) -> Train:
        def train(message: Message, context: Context) -> Message:
            order.append(node)
            return adds(2**node)(message, context)

        return train

    grid = LocalGrid({node: noted(node) for node in nodes})
    grid.before_reply = die
    with flower_log() as lines, pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_module, "TOGETHER", 1)
        strategy = ours(mortal, fraction_evaluate=0.0, **all_of(nodes))
        result = play(strategy, grid, rounds=2, model={"w": np.zeros(2, np.float32)})
    left = np.mean([2.0**node for node in order[killed_before - 1 : 4]])
    np.testing.assert_allclose(numpy(result.arrays)["w"], left + np.mean([2, 4, 8, 16]), rtol=1e-6)
    assert sum("the Tributary server was restarted, and this update is lost" in line for line in lines) == (
        killed_before - 1
    )


def test_a_server_that_dies_after_the_last_update_costs_the_round(mortal: Process) -> None:
    nodes = {1: adds(1), 2: adds(3)}

    class Dying(TributaryStrategy):
        def configure_train(self, server_round: int, *arguments: Any) -> list[Message]:
            messages = list(super().configure_train(server_round, *arguments))
            if server_round == 1:
                assert self._run is not None
                # One more than will come: the round stays open.
                self._run.coordinator.expect(3)
            return messages

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            return super().aggregate_train(server_round, restarting_after(replies))

    def restarting_after(replies: Any) -> Iterator[Message]:
        yield from replies
        restart(mortal)

    with flower_log() as lines:
        strategy = Dying(mortal.address, **all_of(nodes))
        play(strategy, LocalGrid(nodes), rounds=1, model={"w": np.zeros(2, np.float32)})
    assert any("round 1 of job" in line and "has no updates any more" in line for line in lines)


@BOTH
def test_a_server_that_stays_away_ends_the_run_by_name(mortal: Process, direct: bool) -> None:
    grid = LocalGrid({node: adds(1) for node in (1, 2, 3)})
    grid.before_reply = lambda number: mortal.kill() if number == 5 else None
    strategy = ours(mortal, direct=direct, patience=0.2, fraction_evaluate=0.0, min_train_nodes=3)
    with pytest.raises(errors.ServerUnreachable, match=re.escape(mortal.address)):
        play(strategy, grid, rounds=3)


@BOTH
def test_a_server_that_is_restarted_between_rounds_costs_nothing(mortal: Process, direct: bool) -> None:
    def between(_: int, arrays: ArrayRecord) -> None:
        restart(mortal)

    nodes = {1: adds(1), 2: adds(3)}
    result = play(
        ours(mortal, direct=direct, fraction_evaluate=0.0),
        LocalGrid(nodes),
        rounds=2,
        model={"w": np.zeros(2, np.float32)},
        evaluate_fn=between,
    )
    np.testing.assert_array_equal(numpy(result.arrays)["w"], [4, 4])


# === direct mode ===


def test_replies_that_get_lost_after_the_push_count(process: Process) -> None:
    def train(message: Message, context: Context) -> Message:
        return adds(1)(message, context)

    class Losing(LocalGrid):
        def _answer(self, message: Message) -> Message:
            answer = super()._answer(message)
            return Message(Error(0, "lost on the way"), reply_to=message) if self.replies <= 2 else answer

    with flower_log() as lines:
        result = play(
            ours(process, direct=True, fraction_evaluate=0.0),
            Losing({1: train, 2: train}),
            rounds=2,
            model={"w": np.zeros(2, np.float32)},
        )
    np.testing.assert_array_equal(numpy(result.arrays)["w"], [2, 2])
    assert "aggregate_train: 2 updates are in the model, and 0 replies were taken" in lines


def test_other_arrays_than_the_jobs_are_refused(process: Process) -> None:
    class Changing(TributaryStrategy):
        def aggregate_train(self, *arguments: Any) -> Any:
            arrays, metrics = super().aggregate_train(*arguments)
            assert arrays is not None
            return ArrayRecord(dict(arrays)), metrics

    strategy = Changing(process.address, direct=True)
    with pytest.raises(errors.InvalidArgument, match="nodes train from the job's own model"):
        play(strategy, LocalGrid({1: adds(1), 2: adds(1)}), rounds=2)


def test_a_node_that_is_asked_too_late_says_so(process: Process) -> None:
    kept: list[Message] = []

    class Keeping(LocalGrid):
        def _answer(self, message: Message) -> Message:
            if message.metadata.message_type == "train":
                kept.append(message)
            return super()._answer(message)

    grid = Keeping({1: adds(1), 2: adds(1)})
    play(ours(process, direct=True), grid, rounds=1)
    kept[0].content["tributary"] = ConfigRecord(
        {
            "server": process.address, "job": f"flower-{grid.run.run_id}", "version": 1, "patience": 0.0, "train": 1,
            "arrays": "arrays", "weight": "num-examples", "names": list(MODEL), "dtypes": ["float32"] * len(MODEL),
        }
    )  # fmt: skip
    late = LocalGrid._answer(grid, kept[0])
    reason = late.error.reason or ""
    assert "StaleModel" in reason
    assert "the newest is 2" in reason
