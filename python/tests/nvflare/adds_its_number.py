"""What a site of the test does: it adds its number to the model, and says how many steps that took."""

import numpy as np
import nvflare.client as flare

flare.init()
number = int(flare.get_site_name().rpartition("-")[2])
while flare.is_running():
    model = flare.receive()
    params = {name: np.asarray(values, np.float32) + number for name, values in model.params.items()}
    flare.send(flare.FLModel(params=params, metrics={"loss": 1.0 * number}, meta={"NUM_STEPS_CURRENT_ROUND": number}))
