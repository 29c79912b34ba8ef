"""Runs NVFLARE's FedAvg in its simulator, with Tributary as the aggregator: `simulate.py ADDRESS FOLDER`."""

import sys
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv

from tributary.nvflare import TributaryAggregator

if __name__ == "__main__":
    address, folder = sys.argv[1:]
    recipe = NumpyFedAvgRecipe(
        name="fedavg",
        model=np.zeros((2, 3), np.float32).tolist(),
        min_clients=2,
        num_rounds=2,
        train_script=str(Path(__file__).parent / "adds_its_number.py"),
        aggregator=TributaryAggregator(address, job="simulated"),
    )
    recipe.execute(SimEnv(num_clients=2, workspace_root=folder))
