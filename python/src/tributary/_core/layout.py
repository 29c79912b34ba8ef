"""Where the tensors of a safetensors file are: names, shapes, types, places."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tributary import errors

HEADER_BYTES_MAX = 100_000_000
"""The longest header that the format allows."""

_NUMPY = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Numpy's type for a type of the format."""
    if dtype == "BF16":
        return bfloat16()
    if dtype not in _NUMPY:
        raise errors.ProtocolError(f"the file has elements of type {dtype}, which numpy does not have")
    return np.dtype(_NUMPY[dtype])


def bfloat16() -> np.dtype[Any]:
    """Numpy's bf16, which is a package of its own."""
    try:
        module = importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise errors.MissingPackage("bf16 needs ml_dtypes: pip install ml_dtypes") from error
    dtype: np.dtype[Any] = np.dtype(module.bfloat16)
    return dtype


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor's place in a file: type in the format's words, shape in elements, bytes from the data's beginning."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Layout(Mapping[str, Tensor]):
    """All tensors of a file, in the order of their places, and the bytes in front of the data."""

    tensors: dict[str, Tensor]
    data_start: int
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    fingerprint: str | None = None
    """What the server calls it, if it did."""

    @property
    def nbytes(self) -> int:
        """Bytes of all data."""
        return max((tensor.end for tensor in self.tensors.values()), default=0)

    @classmethod
    def parse(cls, file: memoryview) -> Layout:
        """Reads the header of a whole file."""
        length = int.from_bytes(file[:8], "little")
        layout = cls.parse_header(bytes(file[8 : 8 + length]), length)
        if len(file) - layout.data_start != layout.nbytes:
            raise errors.ProtocolError(
                f"a safetensors file of {len(file)} bytes should have {layout.data_start + layout.nbytes}"
            )
        return layout

    @classmethod
    def parse_header(cls, text: bytes, length: int) -> Layout:
        """Reads a header, without the 8 bytes in front of it that give its length."""
        if length > HEADER_BYTES_MAX or len(text) < length:
            raise errors.ProtocolError(f"not a safetensors file: its header would have {length} bytes")
        try:
            document = json.loads(text)
            metadata = dict(document.pop("__metadata__", None) or {})
            tensors = {
                name: Tensor(str(entry["dtype"]), tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
                for name, entry in document.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise errors.ProtocolError(f"not a safetensors file: {error}") from error
        ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
        return cls(ordered, 8 + length, metadata)

    def views(self, file: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Every tensor as a view of a file of bytes."""
        return {name: self._view(file, name, tensor) for name, tensor in self.tensors.items()}

    def _view(self, file: npt.NDArray[np.uint8], name: str, tensor: Tensor) -> npt.NDArray[Any]:
        dtype = numpy_type(tensor.dtype)
        if tensor.begin < 0 or tensor.end - tensor.begin != math.prod(tensor.shape) * dtype.itemsize:
            raise errors.ProtocolError(f"tensor {name!r} of the file: shape and place contradict each other")
        data = file[self.data_start + tensor.begin : self.data_start + tensor.end]
        return data.view(dtype).reshape(tensor.shape)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def header(tensors: Sequence[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    """The beginning of a file, up to its data, for tensors of (name, type, shape, bytes) in this order.

    The format's own library builds a file in memory, which copies every tensor; so this is written here.
    """
    document: dict[str, Any] = {}
    offset = 0
    for name, dtype, shape, size in tensors:
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    # The data begins at a multiple of 8, as the format asks.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
