"""Flower's `aggregate_arrayrecords`: the inner loop of FedAvg and of most of its strategies."""

import contender
import flower_records


def prepare(tensors, clients):
    records = flower_records.replies(tensors, clients)
    return lambda: flower_records.average(records)


contender.serve(prepare)
