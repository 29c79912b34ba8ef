"""Flower's arrays: read where they lie, told apart, put together again."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from grids import numpy, record
from tributary import errors
from tributary.flower.arrays import Layout, UnsupportedArray, pack, view

SAMPLES = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
    np.float16(1.5) * np.ones((2, 1, 3), np.float16),
    np.array(7.25, np.float32),
    np.array(9, np.int64),
    np.zeros((0, 3), np.float32),
    np.array([True, False]),
    np.arange(5, dtype=np.uint8),
]

MODEL: dict[str, np.ndarray[Any, Any]] = {
    "w": np.ones((2, 3), np.float32),
    "n": np.array(3, np.int64),
    "b": np.zeros(3, np.float64),
}


@pytest.mark.parametrize("values", SAMPLES, ids=lambda values: f"{values.dtype}{values.shape}")
def test_a_view_is_what_numpy_loads_and_copies_nothing(values: np.ndarray[Any, Any]) -> None:
    array = Array(values)
    seen = view("x", array)
    loaded = array.numpy()
    assert (seen.dtype, seen.shape) == (loaded.dtype, loaded.shape)
    np.testing.assert_array_equal(seen, loaded)
    assert not seen.size or np.shares_memory(seen, np.frombuffer(array.data, np.uint8))


@pytest.mark.parametrize("values", SAMPLES, ids=lambda values: f"{values.dtype}{values.shape}")
def test_a_packed_array_is_what_flower_itself_makes(values: np.ndarray[Any, Any]) -> None:
    packed, flowers = pack(values), Array(np.ascontiguousarray(values).reshape(values.shape))
    assert packed == flowers
    assert packed.object_id == flowers.object_id


def damaged(cut: int) -> Array:
    whole = Array(np.ones(8, np.float32))
    return Array(whole.dtype, whole.shape, whole.stype, whole.data[:cut])


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (Array(np.ones(2, np.complex64)), "dtype complex64; cast it to float32"),
        (Array(np.ones(2, ">f4")), "dtype >f4"),
        (Array(np.array(["a"])), "dtype <U1"),
        (Array("float32", (2,), "torch", b""), "serialized as 'torch'"),
        (damaged(3), "not what `np.save` writes"),
        (damaged(-4), "not what `np.save` writes"),
        (damaged(-1), "not what `np.save` writes"),
    ],
)
def test_what_no_job_can_hold_is_refused_by_name(array: Array, said: str) -> None:
    with pytest.raises(UnsupportedArray, match="array 'x'") as refused:
        view("x", array)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"__metadata__": np.ones(1, np.float32)}, "__metadata__"),
        ({"n": np.ones(1, np.int64)}, "no floating-point elements"),
        ({"w": np.ones((0, 2), np.float32)}, "no floating-point elements"),
        ({}, "no floating-point elements"),
    ],
)
def test_what_is_no_model_is_refused(arrays: dict[str, np.ndarray[Any, Any]], said: str) -> None:
    with pytest.raises(UnsupportedArray, match=said):
        Layout.of(record(arrays))


def test_what_is_taken_apart_is_put_together_in_order() -> None:
    model = record(MODEL)
    layout = Layout.of(model)
    tensors, counted = layout.split(model)
    assert (list(tensors), list(counted)) == (["w", "b"], ["n"])
    together = layout.join({name: values.astype(np.float32) for name, values in tensors.items()}, counted)
    assert list(together) == ["w", "n", "b"]
    for name, values in numpy(together).items():
        assert values.dtype == MODEL[name].dtype
        np.testing.assert_array_equal(values, MODEL[name])


def test_updates_may_be_of_other_floats_and_averages_of_integers() -> None:
    update = {name: values.astype(np.float64) for name, values in MODEL.items()}
    tensors, counted = Layout.of(record(MODEL)).split(record(update))
    assert tensors["w"].dtype == np.float64
    assert numpy(counted)["n"].dtype == np.float64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w": np.ones((3, 2), np.float32)}, "tensor 'w': expected shape (2, 3), got (3, 2)"),
        ({"w": np.ones((2, 3), np.int32)}, "tensor 'w': expected a dtype like float32, got int32"),
        ({"n": np.ones(1, np.int64)}, "tensor 'n': expected shape (), got (1,)"),
        ({"b": None}, "tensor 'b': expected the model's 3 arrays, got 2: missing are 'b', unexpected are none"),
        ({"more": np.ones(1)}, "tensor 'more': expected the model's 3 arrays, got 4: missing are none"),
        ({"w": None, "v": MODEL["w"]}, "missing are 'w', unexpected are 'v'"),
    ],
)
def test_updates_that_differ_are_told_where(change: dict[str, np.ndarray[Any, Any] | None], said: str) -> None:
    update = {name: values for name, values in {**MODEL, **change}.items() if values is not None}
    with pytest.raises(errors.LayoutMismatch) as refused:
        Layout.of(record(MODEL)).split(record(update))
    assert said in str(refused.value)


def test_many_wrong_names_are_not_all_listed() -> None:
    many = {f"t{index}": np.ones(1, np.float32) for index in range(9)}
    with pytest.raises(errors.LayoutMismatch, match="missing are 't0', 't1', 't2' and 6 more"):
        Layout.of(record(many)).split(ArrayRecord())


def test_long_headers_are_read() -> None:
    data = io.BytesIO()
    np.lib.format.write_array(data, np.ones(4, np.float32), version=(2, 0))
    assert view("x", Array("float32", (4,), "numpy.ndarray", data.getvalue())).shape == (4,)
