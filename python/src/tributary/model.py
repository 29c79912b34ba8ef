"""A model, as the server publishes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tributary._core.layout import Layout

Array = npt.NDArray[Any]


class Model(Mapping[str, Array]):
    """The tensors of one version of a job's model, by name, in the order of the job's layout.

    The arrays are views of the one buffer that was received: nothing was copied, and the buffer lives as long as one of
    them does. They can be written to, so a client may train in place and push the model itself.

    Attributes:
        job: the job's name.
        version: the version, which is also the number of the round that is open for it.
        layout: names, shapes, types and places of the tensors.
    """

    __slots__ = ("_arrays", "_buffer", "job", "layout", "version")

    def __init__(self, job: str, version: int, layout: Layout, buffer: npt.NDArray[np.uint8]) -> None:
        self.job = job
        self.version = version
        self.layout = layout
        self._buffer = buffer
        self._arrays = layout.views(buffer)

    @classmethod
    def parse(cls, job: str, version: int, buffer: npt.NDArray[np.uint8], fingerprint: str | None = None) -> Model:
        """Reads a safetensors file of bytes without copying its data.

        Raises:
            ProtocolError: it is no such file, or has elements of a type that numpy does not have.
        """
        layout = dataclasses.replace(Layout.parse(buffer.data), fingerprint=fingerprint)
        return cls(job, version, layout, buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors' data."""
        return self.layout.nbytes

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(array.size for array in self._arrays.values())

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"<Model {self.job!r} version {self.version}: {len(self)} tensors, {self.parameters} parameters>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job, self.version, self.layout, self._buffer)
