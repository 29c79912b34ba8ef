"""What the server does: rounds of federated averaging, and a test after each."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from flower_digits import task
from tributary.flower import TributaryStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs all rounds."""
    config = context.run_config
    nodes = int(config["nodes"])
    _, test = task.load(str(config["data"]))

    def evaluate(_: int, arrays: ArrayRecord) -> MetricRecord:
        model = {name: array.numpy() for name, array in arrays.items()}
        loss, accuracy = task.evaluate(model, test)
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    # The one line: this was `strategy = FedAvg(min_train_nodes=nodes, min_available_nodes=nodes)`.
    strategy = TributaryStrategy(
        str(config["tributary"]), direct=bool(config["direct"]), min_train_nodes=nodes, min_available_nodes=nodes
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(values) for name, values in task.initial().items()}),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    if config["save"]:
        saved: dict[str, Any] = {name: array.numpy() for name, array in result.arrays.items()}
        np.savez(str(config["save"]), **saved)
