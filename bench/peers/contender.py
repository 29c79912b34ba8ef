"""What all contenders share: arrays that are the same everywhere, and taking turns.

A contender gets a line of JSON with the tensors and the number of clients, makes its arrays, and says `ready`. For each
line `run` it works once and says how many seconds that took. `result PATH` lets it write its last result, so that the
benchmark can see that all have computed the same.
"""

import json
import sys
import time
import warnings

import numpy as np

warnings.filterwarnings("ignore")


def arrays(tensors, client):
    """A client's arrays by name: the same values as `values` in bench/src/model.rs, bit for bit."""
    elements = sum(int(np.prod(shape)) for _, shape in tensors)
    index = np.arange(elements, dtype=np.uint32)
    mixed = index * np.uint32(0x9E3779B1) + np.uint32((client * 0x9E3779B9) & 0xFFFFFFFF)
    bits = np.uint32(0x3F800000) | (mixed >> np.uint32(9))
    values = (bits.view(np.float32) - np.float32(1.5)) * np.float32(0.125)
    found, offset = {}, 0
    for name, shape in tensors:
        count = int(np.prod(shape))
        # A copy, because decoded tensors do not lie beside each other either.
        found[name] = values[offset : offset + count].reshape(shape).copy()
        offset += count
    return found


def weights(clients):
    """The clients' weights: 1, 2, 3 and so on."""
    return [float(client + 1) for client in range(clients)]


def serve(prepare):
    """Takes turns. `prepare(tensors, clients)` gives what is to be done; that gives arrays or tensors by name."""
    # Frameworks print as they please: only this program's own words go to the benchmark.
    answers, sys.stdout = sys.stdout, sys.stderr

    def say(words):
        print(words, file=answers, flush=True)

    task = json.loads(sys.stdin.readline())
    work = prepare(task["tensors"], task["clients"])
    say("ready")
    result = None
    for line in sys.stdin:
        word, _, path = line.strip().partition(" ")
        if word == "run":
            result = None
            started = time.perf_counter()
            result = work()
            say(time.perf_counter() - started)
        elif word == "result":
            with open(path, "wb") as file:
                for name, _ in task["tensors"]:
                    # Tensors and Flower's arrays become numpy's in the same words.
                    file.write(np.ascontiguousarray(result[name].numpy(), dtype=np.float32).tobytes())
            say("written")
