"""The task: handwritten digits of 8x8 pixels, and a network of one hidden layer, in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DATA = Path(__file__).resolve().parents[1] / "digits/data/optdigits.txt"
CLASSES = 10
TEST_IMAGES = 360

Array = npt.NDArray[np.float32]
Weights = Mapping[str, Array]


class Images(NamedTuple):
    """Images of shape [n, 64] with brightness from 0 to 1, and their labels of shape [n]."""

    pixels: Array
    labels: npt.NDArray[np.int64]

    def take(self, which: npt.NDArray[np.int64]) -> Images:
        """Some of them."""
        return Images(self.pixels[which], self.labels[which])


def load(random: np.random.Generator) -> tuple[Images, Images]:
    """The images to learn from, and those to test with."""
    lines = DATA.read_text().split("\n")
    rows = [line.split(" ") for line in lines if line]
    pixels = np.array([[int(pixel, 17) for pixel in row[0]] for row in rows], np.float32)
    images = Images(pixels / np.float32(16), np.array([int(row[1]) for row in rows]))
    order = random.permutation(len(rows))
    return images.take(order[TEST_IMAGES:]), images.take(order[:TEST_IMAGES])


def deal(images: Images, clients: int, random: np.random.Generator) -> list[Images]:
    """Deals images to clients with skewed labels: each client sees some digits often and others hardly ever."""
    shards: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(clients)]
    for label in range(CLASSES):
        which = random.permutation(np.flatnonzero(images.labels == label))
        cuts = np.cumsum(random.dirichlet(np.full(clients, 0.5))) * len(which)
        for shard, part in zip(shards, np.split(which, cuts[:-1].astype(int)), strict=True):
            shard.append(part)
    return [images.take(np.concatenate(shard)) for shard in shards]


def train(model: Weights, images: Images, random: np.random.Generator, passes: int = 5) -> dict[str, Array]:
    """Stochastic gradient descent from ``model``; gives the weights that it ends with."""
    weights = {name: array.copy() for name, array in model.items()}
    for _ in range(passes):
        order = random.permutation(len(images.labels))
        for start in range(0, len(order), 16):
            batch = images.take(order[start : start + 16])
            for name, slope in _gradient(weights, batch).items():
                weights[name] -= np.float32(0.3) * slope
    return weights


def accuracy(model: Weights, images: Images) -> float:
    """The part of the images, from 0 to 1, whose digit the network says."""
    _, scores = _forward(model, images.pixels)
    return float((scores.argmax(axis=1) == images.labels).mean())


def _forward(model: Weights, pixels: Array) -> tuple[Array, Array]:
    hidden = np.maximum(pixels @ model["hidden.weight"].T + model["hidden.bias"], 0)
    return hidden, hidden @ model["output.weight"].T + model["output.bias"]


def _gradient(model: Weights, images: Images) -> dict[str, Array]:
    hidden, scores = _forward(model, images.pixels)
    error = np.exp(scores - scores.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(images.labels)), images.labels] -= 1
    error /= np.float32(len(images.labels))
    below = (error @ model["output.weight"]) * (hidden > 0)
    return {
        "hidden.bias": below.sum(axis=0),
        "hidden.weight": below.T @ images.pixels,
        "output.bias": error.sum(axis=0),
        "output.weight": error.T @ hidden,
    }
