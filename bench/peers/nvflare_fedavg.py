"""NVFLARE's FedAvg on torch tensors: its public `BaseFedAvg.aggregate_fn`, on two threads."""

import torch
from nvflare.apis.dxo import MetaKey
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.base_fedavg import BaseFedAvg

import contender


def prepare(tensors, clients):
    torch.set_num_threads(2)
    results = []
    for client, weight in enumerate(contender.weights(clients)):
        made = contender.arrays(tensors, client)
        params = {name: torch.from_numpy(array) for name, array in made.items()}
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: weight, "client_name": f"client-{client}"}
        results.append(FLModel(params=params, meta=meta, current_round=1))
    return lambda: BaseFedAvg.aggregate_fn(results).params


contender.serve(prepare)
