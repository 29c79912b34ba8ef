"""Rounds of FedAvg with clients that train nothing: they send the model back, scaled.

The server app writes a line into the file `marks` when a round begins and when its average is there, so that whoever
watches the server's processes knows what belongs to which round.
"""

import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    """What a client does: 0.99 times the model."""
    arrays = message.content["arrays"]
    scaled = ArrayRecord({name: Array(array.numpy() * np.float32(0.99)) for name, array in arrays.items()})
    content = RecordDict({"arrays": scaled, "metrics": MetricRecord({"num-examples": 1.0})})
    return Message(content=content, reply_to=message)


class Marked(FedAvg):
    """FedAvg that says when."""

    def __init__(self, marks, **options):
        super().__init__(**options)
        self.marks = marks

    def mark(self, word, server_round):
        with open(self.marks, "a") as file:
            file.write(f"{word} {server_round} {time.time()}\n")

    def configure_train(self, server_round, *arguments):
        self.mark("begin", server_round)
        return super().configure_train(server_round, *arguments)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.mark("replies", server_round)
        result = super().aggregate_train(server_round, replies)
        self.mark("end", server_round)
        return result


@server.main()
def main(grid, context):
    """All rounds."""
    config = context.run_config
    with open(config["shapes"]) as file:
        tensors = json.load(file)
    initial = {name: Array(np.ones(shape, dtype=np.float32)) for name, shape in tensors}
    clients = int(config["clients"])
    strategy = Marked(
        config["marks"],
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=clients,
        min_available_nodes=clients,
    )
    strategy.start(grid=grid, initial_arrays=ArrayRecord(initial), num_rounds=int(config["rounds"]))
