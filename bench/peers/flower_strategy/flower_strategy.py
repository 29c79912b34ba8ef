"""Rounds with clients that train nothing, aggregated by FedAvg or by TributaryStrategy.

The server app writes a line of JSON into the file `marks` when a round begins and when its average is there: the time,
its own CPU seconds, and the most memory that it has held so far.
"""

import json
import resource
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from tributary.flower import TributaryStrategy, direct_mod

client = ClientApp(mods=[direct_mod])
server = ServerApp()


@client.train()
def train(message, context):
    """What a client does: 0.99 times the model."""
    arrays = message.content["arrays"]
    scaled = ArrayRecord({name: Array(array.numpy() * np.float32(0.99)) for name, array in arrays.items()})
    content = RecordDict({"arrays": scaled, "metrics": MetricRecord({"num-examples": 1.0})})
    return Message(content=content, reply_to=message)


def marked(kind):
    """A strategy of that kind that says when."""

    class Marked(kind):
        marks = ""

        def mark(self, word, server_round):
            line = {
                "word": word,
                "round": server_round,
                "time": time.time(),
                "cpu_seconds": time.process_time(),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            with open(self.marks, "a") as file:
                file.write(json.dumps(line) + "\n")

        def configure_train(self, server_round, *arguments):
            self.mark("begin", server_round)
            return super().configure_train(server_round, *arguments)

        def aggregate_train(self, server_round, replies):
            result = super().aggregate_train(server_round, replies)
            self.mark("end", server_round)
            return result

    return Marked


@server.main()
def main(grid, context):
    """All rounds."""
    config = context.run_config
    with open(config["shapes"]) as file:
        tensors = json.load(file)
    initial = ArrayRecord({name: Array(np.ones(shape, dtype=np.float32)) for name, shape in tensors})
    clients = int(config["clients"])
    options = {"fraction_evaluate": 0.0, "min_train_nodes": clients, "min_available_nodes": clients}
    if config["strategy"] == "fedavg":
        strategy = marked(FedAvg)(**options)
    else:
        direct = config["strategy"] == "direct"
        strategy = marked(TributaryStrategy)(config["tributary"], direct=direct, **options)
    strategy.marks = config["marks"]
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=int(config["rounds"]))
