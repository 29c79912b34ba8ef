"""Flower's arrays as views, and models as Flower's arrays.

Flower keeps an array as what ``np.save`` writes: a short header, then the elements, little-endian, in one piece. So an
array can be read where it lies, and only its header has to be parsed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord

from tributary import errors

Values = npt.NDArray[Any]

#: What Flower calls the bytes of ``np.save``.
NPY = "numpy.ndarray"

#: The one name that safetensors keeps for itself.
RESERVED = "__metadata__"

#: Elements of these kinds of dtypes are averaged in the server app: booleans and integers.
COUNTED = "biu"

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class UnsupportedArray(errors.TributaryError, TypeError):
    """An array that no job can hold: of another dtype than numbers have, serialized in an unknown way, or damaged."""


class Layout:
    """The arrays of a model: their names in order, their dtypes and shapes.

    Floating-point arrays are the job's tensors. Integers and booleans, such as the ``num_batches_tracked`` of a batch
    norm, are *counted*: jobs hold none, so they stay with Flower.

    Args:
        dtypes: by name, in the model's order.
        shapes: by name.
    """

    def __init__(self, dtypes: Mapping[str, np.dtype[Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.dtypes = dict(dtypes)
        self.shapes = dict(shapes)

    @classmethod
    def of(cls, model: Mapping[str, Array]) -> Layout:
        """The layout of a model.

        Raises:
            UnsupportedArray: an array is neither of numbers, nor readable, is named ``__metadata__``, or there is no
                floating-point element.
        """
        values = {name: view(name, array) for name, array in model.items()}
        if RESERVED in values:
            raise UnsupportedArray(f"an array is named {RESERVED!r}, which safetensors keeps for itself; rename it")
        if not any(array.size for array in values.values() if array.dtype.kind not in COUNTED):
            raise UnsupportedArray("the model has no floating-point elements: there is nothing to aggregate")
        return cls(
            {name: array.dtype for name, array in values.items()},
            {name: array.shape for name, array in values.items()},
        )

    def split(self, record: Mapping[str, Array]) -> tuple[dict[str, Values], ArrayRecord]:
        """An update's tensors, as views, and its counted arrays.

        A tensor may come in another floating-point dtype than the model's; Tributary converts it.

        Raises:
            LayoutMismatch: names, shapes or kinds of dtypes are not those of the model.
            UnsupportedArray: an array cannot be read.
        """
        self._check_names(record)
        tensors: dict[str, Values] = {}
        counted = ArrayRecord()
        for name, dtype in self.dtypes.items():
            values = view(name, record[name])
            self._check(name, values)
            if dtype.kind in COUNTED:
                counted[name] = record[name]
            else:
                tensors[name] = values
        return tensors, counted

    def join(self, tensors: Mapping[str, Values], counted: Mapping[str, Array]) -> ArrayRecord:
        """A model's tensors and counted arrays as one record: names in the model's order, tensors in their dtypes."""
        record = ArrayRecord()
        for name, dtype in self.dtypes.items():
            if name in counted:
                record[name] = counted[name]
            else:
                record[name] = pack(tensors[name].astype(dtype, copy=False).reshape(self.shapes[name]))
        return record

    def _check_names(self, record: Mapping[str, Array]) -> None:
        missing = [name for name in self.dtypes if name not in record]
        unexpected = [name for name in record if name not in self.dtypes]
        if missing or unexpected:
            raise errors.LayoutMismatch.found(
                (missing or unexpected)[0],
                expected=f"the model's {len(self.dtypes)} arrays",
                got=f"{len(record)}: missing are {short(missing)}, unexpected are {short(unexpected)}",
                fix="send back the arrays of the model, under their names",
            )

    def _check(self, name: str, values: Values) -> None:
        if values.shape != self.shapes[name]:
            fix = "send back arrays of the model's shapes"
            expected, got = f"shape {self.shapes[name]}", f"{values.shape}"
            raise errors.LayoutMismatch.found(name, expected=expected, got=got, fix=fix)
        # Counted arrays may be floats: averages of integers are, and clients send back what they got.
        if values.dtype.kind in COUNTED and self.dtypes[name].kind not in COUNTED:
            fix = "send back floating-point numbers where the model has them"
            expected, got = f"a dtype like {self.dtypes[name]}", f"{values.dtype}"
            raise errors.LayoutMismatch.found(name, expected=expected, got=got, fix=fix)


def view(name: str, array: Array) -> Values:
    """The elements of an array, read-only and where they lie.

    Raises:
        UnsupportedArray: it was not written by ``np.save``, is cut short, or holds no integers and no floats of 16, 32
            or 64 bits.
    """
    if array.stype != NPY:
        raise UnsupportedArray(f"array {name!r} is serialized as {array.stype!r}; make it of a numpy array")
    # Reading from immutable bytes copies nothing.
    file = io.BytesIO(array.data)
    try:
        shape, column_major, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        if dtype.kind not in COUNTED and dtype not in (np.float16, np.float32, np.float64):
            raise UnsupportedArray(f"array {name!r} has dtype {dtype}; cast it to float32")
        values = np.frombuffer(array.data, np.uint8, offset=file.tell()).view(dtype)
        return values.reshape(shape, order="F" if column_major else "C")
    except (KeyError, ValueError) as error:
        raise UnsupportedArray(f"array {name!r} is not what `np.save` writes: {error}") from error


def pack(values: Values) -> Array:
    """Flower's array of these elements; they are copied once."""
    header = io.BytesIO()
    # Fortran's order would need its own header; a copy in C's order is simpler, and rare.
    values = np.asarray(values, order="C")
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    data = b"".join((header.getvalue(), values.reshape(-1).view(np.uint8).data))
    return Array(dtype=str(values.dtype), shape=values.shape, stype=NPY, data=data)


def short(names: list[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(map(repr, names[:3])) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
