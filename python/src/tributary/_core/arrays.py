"""numpy arrays and torch tensors as bytes, one at a time, copied only if they cannot be sent from where they are."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from tributary import errors
from tributary._core.layout import numpy_type

_WIRE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The types in which updates travel, by the names that numpy and torch give them."""

BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class Source:
    """One tensor of an update. Neither torch nor another device is touched before its turn comes."""

    __slots__ = ("_value", "kind", "name", "shape")

    def __init__(self, name: str, value: Any) -> None:
        if not hasattr(value, "dtype") or not hasattr(value, "shape"):
            raise errors.LayoutMismatch.found(
                name,
                expected="a numpy array or a torch tensor",
                got=type(value).__name__,
                fix="numpy.asarray(..., dtype=numpy.float32) makes one",
            )
        self.name = name
        self._value = value
        self.shape = tuple(int(length) for length in value.shape)
        self.kind = _kind(value)
        """The type's name without byte order, as in ``float32``."""

    @property
    def wire(self) -> str | None:
        """The type's name in the file, if updates can be of that type."""
        return _WIRE.get(self.kind)

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    def array(self, wire: str) -> npt.NDArray[Any]:
        """The elements in that type: contiguous, little-endian, flat; a view if they are so already."""
        array = self._array()
        if self.kind == wire_name(wire) == "bfloat16":
            return np.ascontiguousarray(array).reshape(-1)
        wanted = numpy_type(wire)
        # What is out of the type's range becomes infinite; the server names the coordinate.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(array, dtype=wanted).reshape(-1)

    def _array(self) -> npt.NDArray[Any]:
        value = self._value
        if not hasattr(value, "detach"):
            return np.asarray(value)
        value = value.detach().cpu()
        if self.kind == "bfloat16":
            # numpy has no bf16 of its own, so the bits are handed over as numbers.
            value = value.contiguous().view(sys.modules["torch"].int16)
            raw: npt.NDArray[Any] = value.numpy()
            return raw
        return np.asarray(value.numpy())


def wire_name(wire: str) -> str:
    """The opposite of a wire type: the name that numpy and torch give it."""
    return {wire: name for name, wire in _WIRE.items()}[wire]


def view(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a flat, contiguous array."""
    return array.view(np.uint8).data


def _kind(value: Any) -> str:
    dtype = value.dtype
    name = getattr(dtype, "name", None) or str(dtype)
    return str(name).removeprefix("torch.")
