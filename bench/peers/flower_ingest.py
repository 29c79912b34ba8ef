"""Flower's own inflating of wire objects plus `aggregate_arrayrecords`, in one process, without a network.

What a client sends is made before the clock starts: the objects of its reply, as bytes, as they lie in the SuperLink's
object store. The server's part is to inflate them into records, and to average those.
"""

from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

import contender
import flower_records


def prepare(tensors, clients):
    wire = []
    for client, weight in enumerate(contender.weights(clients)):
        record = flower_records.reply(tensors, client, weight)
        objects = get_all_nested_objects(record)
        wire.append((record.object_id, {name: part.deflate() for name, part in objects.items()}))

    def ingest_and_average():
        # A dictionary of its own, so that there is something left for the next turn; the bytes are not copied.
        records = [inflate_object_from_contents(name, dict(contents)) for name, contents in wire]
        return flower_records.average(records)

    return ingest_and_average


contender.serve(prepare)
