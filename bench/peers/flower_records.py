"""Flower's records: what its strategies aggregate, and what its wire carries."""

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

import contender

WEIGHT = "num-examples"


def reply(tensors, client, weight):
    """What a client answers: its arrays and its weight."""
    made = contender.arrays(tensors, client)
    arrays = ArrayRecord({name: Array(array) for name, array in made.items()})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({WEIGHT: weight})})


def replies(tensors, clients):
    """The replies of all clients."""
    return [reply(tensors, client, weight) for client, weight in enumerate(contender.weights(clients))]


def average(records):
    """Flower's own average."""
    return aggregate_arrayrecords(records, WEIGHT)

