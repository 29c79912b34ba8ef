"""Twenty clients train a network on handwritten digits together. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import threading
from pathlib import Path

import numpy as np

import digits
from tributary import Client, Function, Job, Server, errors

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
CLIENTS = 20
JOB = "python-digits"
SEED = 7


def create_job(server: Server, rounds: int, functions: Path | None) -> None:
    """Creates the job anew; its model and its function are those of ``manifests/``."""
    function, job = Function.load(MANIFESTS / "functions.yaml"), Job.load(MANIFESTS / "digits.yaml")
    job.name, job.rounds = JOB, rounds
    if functions is not None:
        function.module = str(functions.resolve() / "fedavg.wasm")
    with contextlib.suppress(errors.UnknownJob):
        server.delete("job", JOB)
    server.apply([function, job])


def participate(address: str, number: int, images: digits.Images, rounds: int) -> None:
    """One client: pulls, trains, pushes, as long as there are rounds."""
    random = np.random.default_rng([SEED, number])
    with Client(address, JOB, f"client-{number:02}") as client:
        model = client.pull()
        while model.version <= rounds:
            client.push(digits.train(model, images, random), weight=len(images.labels))
            newer = None
            while newer is None:
                newer = client.pull(after=model.version, wait=30)
            model = newer


def run(address: str, rounds: int = 20, functions: Path | None = None) -> float:
    """Creates the job, runs the clients, each in a thread, and gives the last model's accuracy, from 0 to 1."""
    random = np.random.default_rng(SEED)
    images, test = digits.load(random)
    with Server(address) as server, Client(address, JOB) as watching:
        create_job(server, rounds, functions)
        threads = [
            threading.Thread(target=participate, args=(address, number, shard, rounds), daemon=True)
            for number, shard in enumerate(digits.deal(images, CLIENTS, random))
        ]
        for thread in threads:
            thread.start()
        version, reached = 1, 0.0
        while version <= rounds:
            model = watching.pull(after=version, wait=120)
            if model is None:
                raise SystemExit(f"no model came after version {version}: see the clients' errors above")
            version, reached = model.version, digits.accuracy(model, test)
            print(f"round {version - 1:3}   accuracy {reached:6.2%}")
        for thread in threads:
            thread.join()
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="http://127.0.0.1:7878", metavar="URL")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    run(options.server, options.rounds)
