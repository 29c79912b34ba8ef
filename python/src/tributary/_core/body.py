"""What a request carries: bytes, a file, or the tensors of an update."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from tributary import errors
from tributary._core import arrays, layout
from tributary._core.arrays import Source
from tributary._core.layout import Layout

_SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which no encoding has."""


class Body(Protocol):
    """Bytes to be sent, as often as it takes."""

    @property
    def length(self) -> int:
        """All bytes."""

    @property
    def file(self) -> IO[bytes] | None:
        """The file, if all of it is one that the kernel can send by itself."""

    def pieces(self) -> Iterator[memoryview]:
        """The bytes, from the beginning."""


class Bytes:
    """Bytes in memory."""

    file = None

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def length(self) -> int:
        """All bytes."""
        return len(self._data)

    def pieces(self) -> Iterator[memoryview]:
        """The bytes, from the beginning."""
        yield memoryview(self._data)


class File:
    """A file, sent by the kernel."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.file: IO[bytes] = self.path.open("rb")
        self.length = os.fstat(self.file.fileno()).st_size

    def pieces(self) -> Iterator[memoryview]:
        """Nothing: it is sent from the file."""
        return iter(())

    def layout(self) -> Layout | None:
        """The file's header, if it is a safetensors file; else the server shall say what is wrong."""
        head = os.pread(self.file.fileno(), 8, 0)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(self.length, layout.HEADER_BYTES_MAX):
            return None
        try:
            return Layout.parse_header(os.pread(self.file.fileno(), length, 8), length)
        except errors.ProtocolError:
            return None

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


class Tensors:
    """The tensors of an update, as a safetensors file that exists only on the way.

    Its header is made at once; each tensor's bytes are looked up when their turn comes.
    """

    file = None

    def __init__(self, sources: list[tuple[Source, str]]) -> None:
        self._sources = sources
        rows = [(source.name, wire, source.shape, source.size * arrays.BYTES[wire]) for source, wire in sources]
        self._header = layout.header(rows)
        self._data_bytes = sum(size for *_, size in rows)

    @classmethod
    def of(cls, update: Mapping[str, Any], expected: Layout | None, encoding: str | None, cast: bool) -> Tensors:
        """The tensors of a mapping, checked against the layout of the model that was pulled, if one was.

        Raises:
            LayoutMismatch: a tensor is missing, unexpected, or of another shape or type.
        """
        _check_mapping(update)
        sources = {name: Source(name, value) for name, value in update.items()}
        if expected is not None:
            _check_names(sources, expected)
            _check_shapes(sources, expected)
            # In the layout's order: so the server's reads walk through the slot from its beginning to its end.
            sources = {name: sources[name] for name in expected}
        return cls(_wires(sources.values(), encoding, cast))

    @classmethod
    def of_model(cls, model: Mapping[str, Any]) -> Tensors:
        """The tensors of a first model, as f32.

        Raises:
            LayoutMismatch: a tensor is not of floating-point numbers.
        """
        _check_mapping(model)
        sources = [Source(name, value) for name, value in model.items()]
        for source in sources:
            if "float" not in source.kind:
                raise errors.LayoutMismatch.found(
                    source.name,
                    expected="floating-point numbers",
                    got=source.kind,
                    fix="leave counters and the like out of the model and of updates, and keep them with the client",
                )
        return cls([(source, "F32") for source in sources])

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return len(self._header) + self._data_bytes

    @property
    def dense(self) -> bool:
        """Whether every tensor is plain f32."""
        return all(wire == "F32" for _, wire in self._sources)

    def sources(self) -> list[Source]:
        """The tensors, in the order in which they are sent."""
        return [source for source, _ in self._sources]

    def pieces(self) -> Iterator[memoryview]:
        """The bytes, from the beginning. A tensor that had to be converted lives until the next one's turn."""
        yield memoryview(self._header)
        for source, wire in self._sources:
            if source.size:
                yield arrays.view(source.array(wire))


def check_file(file: Layout, expected: Layout | None) -> None:
    """Checks a dense file's names and shapes; encoded ones are the server's to judge."""
    if expected is None or not all(tensor.dtype in arrays.BYTES for tensor in file.values()):
        return
    _check_names(file, expected)
    _check_shapes(file, expected)


def _check_mapping(update: Mapping[str, Any]) -> None:
    if not isinstance(update, Mapping):
        raise errors.LayoutMismatch.found(
            None,
            expected="a mapping of names to arrays, a Model, or the path of a safetensors file",
            got=type(update).__name__,
            fix="with torch push module.state_dict()",
        )
    for name in update:
        if not isinstance(name, str):
            raise errors.LayoutMismatch.found(
                str(name),
                expected="a str as its name",
                got=type(name).__name__,
                fix="names are those of the model",
            )
        if name == "__metadata__" or _SURROGATES.search(name):
            raise errors.LayoutMismatch.found(
                name,
                expected="the name of a tensor",
                got="one that no safetensors file can hold",
                fix="names are those of the model",
            )


def _check_names(update: Mapping[str, Any], expected: Layout) -> None:
    unexpected = [name for name in update if name not in expected]
    missing = [name for name in expected if name not in update]
    if unexpected:
        name = unexpected[0]
        near = difflib.get_close_matches(name, missing or list(expected), n=1)
        fix = f"the nearest name that the model has is {near[0]!r}" if near else f"the model has {_some(expected)}"
        raise errors.LayoutMismatch.found(name, expected="no tensor of that name", got=_what(update[name]), fix=fix)
    if missing:
        name = missing[0]
        raise errors.LayoutMismatch.found(
            name,
            expected=_what(expected[name]),
            got="no such tensor",
            fix=f"an update has all {len(expected)} tensors of the model, and {len(missing)} are missing",
        )


def _check_shapes(update: Mapping[str, Any], expected: Layout) -> None:
    for name, tensor in expected.items():
        shape = tuple(update[name].shape)
        if shape != tensor.shape:
            raise errors.LayoutMismatch.found(
                name,
                expected=f"shape {list(tensor.shape)}",
                got=f"shape {list(shape)}",
                fix="train from the model as it was pulled, or reshape the tensor",
            )


def _wires(sources: Iterable[Source], encoding: str | None, cast: bool) -> list[tuple[Source, str]]:
    """The tensors, each with the type in which it is sent: all with the same."""
    if encoding not in (None, "f32", "f16", "bf16"):
        raise errors.InvalidArgument(f"encoding is {encoding!r}; there are 'f32', 'f16' and 'bf16'")
    wires = [(source, _wire(source, encoding, cast)) for source in sources]
    if cast and len({wire for _, wire in wires}) > 1:
        return [(source, "F32") for source, _ in wires]
    _check_one_encoding(wires)
    return wires


def _wire(source: Source, encoding: str | None, cast: bool) -> str:
    """The type in which a tensor is sent. An encoding converts those that updates may have; the others take a cast."""
    if source.wire is not None or (cast and _number(source.kind)):
        return encoding.upper() if encoding else source.wire or "F32"
    fix = (
        "pass cast=True, or convert it with .astype(numpy.float32) (torch: .float())"
        if _number(source.kind)
        else "only numbers can be averaged"
    )
    raise errors.LayoutMismatch.found(source.name, expected=f"{encoding or 'float32'}", got=source.kind, fix=fix)


def _number(kind: str) -> bool:
    return kind.startswith(("float", "int", "uint", "bfloat", "longdouble", "bool"))


def _check_one_encoding(wires: list[tuple[Source, str]]) -> None:
    for source, wire in wires:
        if wire != wires[0][1]:
            raise errors.LayoutMismatch.found(
                source.name,
                expected=f"{wires[0][1]}, as tensor {wires[0][0].name!r} is",
                got=wire,
                fix="an update has one encoding: pass encoding='f32' (or 'f16', 'bf16'), which converts the others",
            )


def _what(tensor: Any) -> str:
    kind = getattr(tensor, "kind", None) or getattr(tensor, "dtype", "")
    return f"{kind} of shape {list(tensor.shape)}"


def _some(expected: Layout) -> str:
    names = [repr(name) for name in list(expected)[:5]]
    return ", ".join(names) + (f" and {len(expected) - 5} more" if len(expected) > 5 else "")
