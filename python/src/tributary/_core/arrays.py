"""numpy arrays and torch tensors as bytes, one at a time, copied only if they cannot be sent from where they are."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tributary import errors
from tributary._core.layout import numpy_type

_WIRE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The types in which updates travel, by the names that numpy and torch give them."""

BYTES = {"F32": 4, "F16": 2, "BF16": 2}

_TORCH_ONLY = ("bfloat16", "float8", "float4")
"""Types of torch's that numpy has no array for; each fits into float32."""

_PART = 1 << 16
"""Elements that are looked at together."""


class Source:
    """One tensor of an update. Neither torch nor another device is touched before its turn comes."""

    __slots__ = ("_value", "kind", "name", "shape")

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self._value = value
        with self._readable():
            if not hasattr(value, "dtype") or not hasattr(value, "shape"):
                raise errors.LayoutMismatch.found(
                    name,
                    expected="a numpy array or a torch tensor",
                    got=type(value).__name__,
                    fix="numpy.asarray(..., dtype=numpy.float32) makes one",
                )
            _check_dense(name, value)
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
        """The elements in that type: contiguous, little-endian, flat; a view if they are so already.

        Raises:
            LayoutMismatch: numpy cannot read them.
            NonFinite: a finite element is too large for the type.
        """
        with self._readable():
            if _is_torch(self._value) and self.kind == wire_name(wire) == "bfloat16":
                return self._bits()
            return self._converted(wire)

    def _converted(self, wire: str) -> npt.NDArray[Any]:
        array, wanted = self._numbers(), numpy_type(wire)
        # What is out of the type's range becomes infinite, and is looked for then.
        with np.errstate(over="ignore"):
            converted = np.ascontiguousarray(array, dtype=wanted).reshape(-1)
        if not np.can_cast(array.dtype, wanted) and _any_infinite(converted):
            self._check_range(array, converted, wire)
        return converted

    def _check_range(self, array: npt.NDArray[Any], converted: npt.NDArray[Any], wire: str) -> None:
        """Infinite elements that were so before are the server's to judge."""
        lost = np.isinf(converted) & np.isfinite(array.reshape(-1))
        if lost.any():
            place = np.unravel_index(int(lost.argmax()), array.shape)
            fix = "clip it" if wire == "F32" else "clip it, or push with encoding='f32'"
            raise errors.NonFinite(
                f"{self.name}{[int(index) for index in place]}: {array[place]} does not fit {wire.lower()}; {fix}",
                title="Found before sending",
            )

    def _numbers(self) -> npt.NDArray[Any]:
        """The elements as numpy's numbers, with their values and never with what stands for them."""
        value, kind = self._value, self.kind
        if _is_torch(value):
            value = value.detach().cpu()
            if kind.startswith(_TORCH_ONLY):
                value, kind = value.float(), "float32"
            # Some views of torch's are negated only when they are read.
            value = value.resolve_neg().numpy()
        array = np.asarray(value)
        if array.dtype.name != kind or array.shape != self.shape:
            raise TypeError(f"numpy reads it as {array.dtype.name} of shape {list(array.shape)}")
        return array

    def _bits(self) -> npt.NDArray[Any]:
        """A bf16 tensor as it is sent, without a package that lets numpy have bf16: the bits, as whole numbers."""
        value = self._value.detach().cpu().resolve_neg().contiguous()
        bits: npt.NDArray[Any] = value.view(sys.modules["torch"].int16).numpy()
        return bits.reshape(-1)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Whatever the code of an array raises, as an error that names the tensor."""
        try:
            yield
        except (errors.TributaryError, MemoryError):
            raise
        except Exception as error:
            raise errors.LayoutMismatch.found(
                self.name,
                expected="an array that numpy can read",
                got=f"{type(self._value).__name__} ({error})",
                fix="hand over a dense array in the computer's memory: numpy.asarray(...) must give it",
            ) from error


def wire_name(wire: str) -> str:
    """The opposite of a wire type: the name that numpy and torch give it."""
    return {wire: name for name, wire in _WIRE.items()}[wire]


def view(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a flat, contiguous array."""
    return array.view(np.uint8).data


def _any_infinite(flat: npt.NDArray[Any]) -> bool:
    """Part by part, for the memory's sake."""
    return any(np.isinf(flat[start : start + _PART]).any() for start in range(0, flat.size, _PART))


def _is_torch(value: Any) -> bool:
    return hasattr(value, "detach")


def _kind(value: Any) -> str:
    dtype = value.dtype
    name = getattr(dtype, "name", None) or str(dtype)
    return str(name).rpartition(".")[2]


def _check_dense(name: str, value: Any) -> None:
    """Refuses what has no elements, or others than it seems to have."""
    got = fix = ""
    if np.ma.is_masked(value):
        got, fix = "a masked array", ".filled(...) gives what is masked a value"
    elif not _is_torch(value):
        return
    elif getattr(value, "is_meta", False):
        got, fix = "a meta tensor, which has none", "load the weights first"
    elif getattr(value, "is_quantized", False):
        got, fix = "a quantized tensor", ".dequantize() makes it one"
    elif (layout := str(getattr(value, "layout", "torch.strided"))) != "torch.strided":
        got, fix = f"a tensor of layout {layout}", ".to_dense() makes it one"
    if got:
        raise errors.LayoutMismatch.found(name, expected="a tensor with all of its elements", got=got, fix=fix)
