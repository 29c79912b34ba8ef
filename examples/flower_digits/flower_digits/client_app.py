"""What a node does: it trains, and evaluates, on its own images."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_digits import task
from tributary.flower import direct_mod

# The mod is needed in direct mode only; without it, it does nothing.
app = ClientApp(mods=[direct_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains the model of the message on this node's images."""
    model, images = received(message, context)
    epochs, rate = int(context.run_config["local-epochs"]), float(context.run_config["learning-rate"])
    loss = task.train(model, images, epochs, rate)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(images[1])})
    arrays = ArrayRecord({name: Array(values) for name, values in model.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluates the model of the message on this node's images."""
    model, images = received(message, context)
    loss, accuracy = task.evaluate(model, images)
    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(images[1])})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def received(message: Message, context: Context) -> tuple[task.Arrays, task.Images]:
    """The model of a message, to be changed, and this node's images."""
    arrays = message.content.array_records["arrays"]
    model = {name: array.numpy().copy() for name, array in arrays.items()}
    train_images, _ = task.load(str(context.run_config["data"]))
    partition, partitions = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    return model, task.shard(train_images, partition, partitions)
