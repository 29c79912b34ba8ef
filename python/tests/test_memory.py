"""Nothing is copied on the way: what is allocated while 64 MiB move is far less than one of the tensors."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import MakeClient, MakeJob

MIB = 1 << 20
TENSOR_BYTES = 8 * MIB
TENSORS = 8


@pytest.fixture(scope="module")
def model() -> dict[str, np.ndarray[Any, Any]]:
    return {f"layer.{number}": np.ones((1024, 2048), np.float32) for number in range(TENSORS)}


def peak(action: Callable[[], object]) -> int:
    """Bytes that were allocated at most, beyond what was there before."""
    gc.collect()
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("local", [False, "auto"])
def test_push(new_job: MakeJob, new_client: MakeClient, model: dict[str, Any], local: bool | Literal["auto"]) -> None:
    client = new_client(new_job(model, expected=9), local=local)
    client.pull()
    assert peak(lambda: client.push(model)) < MIB


def test_push_of_a_file(new_job: MakeJob, new_client: MakeClient, model: dict[str, Any], tmp_path: Path) -> None:
    save_file(model, tmp_path / "update.safetensors")
    client = new_client(new_job(model, expected=9))
    client.pull()
    assert peak(lambda: client.push(tmp_path / "update.safetensors")) < MIB


@pytest.mark.parametrize("kind", ["not contiguous", "big-endian", "float64", "f16"])
def test_conversion_is_one_tensor_at_a_time(
    new_job: MakeJob, new_client: MakeClient, model: dict[str, Any], kind: str
) -> None:
    client = new_client(new_job(model, expected=9), local=False)
    client.pull()
    changed: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
        "not contiguous": lambda array: np.ascontiguousarray(array.T).T,
        "big-endian": lambda array: array.astype(">f4"),
        "float64": lambda array: array.astype("f8"),
        "f16": lambda array: array,
    }
    update = {name: changed[kind](array) for name, array in model.items()}
    used = peak(lambda: client.push(update, cast=kind == "float64", encoding="f16" if kind == "f16" else None))
    assert TENSOR_BYTES / 2 <= used < TENSOR_BYTES + MIB


def test_pull(new_job: MakeJob, new_client: MakeClient, model: dict[str, Any]) -> None:
    client = new_client(new_job(model))
    size = TENSORS * TENSOR_BYTES
    assert size <= peak(client.pull) < size + MIB
