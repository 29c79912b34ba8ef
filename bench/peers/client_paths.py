"""Updates pushed by the Python client, one after the other: as bodies, or through shared memory."""

import itertools
import os

import contender
from tributary import Client

# So many different updates are sent in turn: enough that none stays in a cache.
UPDATES = 4


def prepare(tensors, clients):
    client = Client(os.environ["TRIBUTARY_SERVER"], job="bench", local=os.environ["TRIBUTARY_PATH"] == "local")
    updates = [contender.arrays(tensors, number) for number in range(UPDATES)]
    round = client.pull().version
    names = itertools.count()

    def push():
        for update, _ in zip(itertools.cycle(updates), range(clients)):
            client.push(update, weight=1, round=round, name=f"client-{next(names)}")

    return push


contender.serve(prepare)
