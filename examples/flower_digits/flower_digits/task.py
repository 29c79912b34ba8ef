"""The task: 1,797 handwritten digits of 8x8 pixels, and a network with one hidden layer, in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]
Images = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

PIXELS, HIDDEN, CLASSES = 64, 32, 10
#: Images that nobody trains with.
TEST = 360
BATCH = 16


def initial(seed: int = 42) -> Arrays:
    """The first model."""
    random = np.random.default_rng(seed)
    return {
        "hidden.weight": random.normal(0, (2 / PIXELS) ** 0.5, (PIXELS, HIDDEN)).astype(np.float32),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "output.weight": random.normal(0, (2 / HIDDEN) ** 0.5, (HIDDEN, CLASSES)).astype(np.float32),
        "output.bias": np.zeros(CLASSES, np.float32),
    }


def load(path: str) -> tuple[Images, Images]:
    """Training and test images. A line of the file has 64 digits to the base 17, and the number that they show."""
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    pixels = np.array([[int(digit, 17) / 16 for digit in brightness] for brightness, _ in lines], np.float32)
    labels = np.array([int(label) for _, label in lines])
    order = np.random.default_rng(7).permutation(len(labels))
    train, test = order[TEST:], order[:TEST]
    return (pixels[train], labels[train]), (pixels[test], labels[test])


def shard(images: Images, partition: int, partitions: int) -> Images:
    """A node's part of the images: mostly its own few digits, so that nodes need each other."""
    pixels, labels = images
    order = np.argsort((labels + np.arange(len(labels)) % 3) % CLASSES, kind="stable")
    mine = np.array_split(order, partitions)[partition]
    return pixels[mine], labels[mine]


def train(model: Arrays, images: Images, epochs: int, rate: float) -> float:
    """Trains in place by gradient descent; the mean loss of the last epoch."""
    pixels, labels = images
    loss = 0.0
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(labels))
        batches = np.array_split(order, max(1, len(labels) // BATCH))
        loss = float(np.mean([_step(model, pixels[batch], labels[batch], rate) for batch in batches]))
    return loss


def evaluate(model: Arrays, images: Images) -> tuple[float, float]:
    """Loss and accuracy."""
    pixels, labels = images
    _, probabilities = _forward(model, pixels)
    return _loss(probabilities, labels), float((probabilities.argmax(axis=1) == labels).mean())


def _step(model: Arrays, pixels: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], rate: float) -> float:
    hidden, probabilities = _forward(model, pixels)
    error = probabilities.copy()
    error[np.arange(len(labels)), labels] -= 1
    error *= np.float32(rate / len(labels))
    below = (error @ model["output.weight"].T) * (hidden > 0)
    model["output.weight"] -= hidden.T @ error
    model["output.bias"] -= error.sum(axis=0)
    model["hidden.weight"] -= pixels.T @ below
    model["hidden.bias"] -= below.sum(axis=0)
    return _loss(probabilities, labels)


def _forward(model: Arrays, pixels: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    hidden = np.maximum(pixels @ model["hidden.weight"] + model["hidden.bias"], 0)
    scores = hidden @ model["output.weight"] + model["output.bias"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def _loss(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, 1e-12)).mean())
