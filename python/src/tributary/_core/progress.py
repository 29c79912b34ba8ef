"""Bars for transfers, when asked for."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType

from tributary import errors
from tributary._core.connection import Moved


class Progress:
    """Shows a bar for each attempt at a transfer, or nothing."""

    def __init__(self, wanted: bool) -> None:
        self._tqdm = _tqdm() if wanted else None

    @contextlib.contextmanager
    def bar(self, what: str, total: int) -> Iterator[Moved]:
        """A bar over so many bytes; yields what is told of each step."""
        if self._tqdm is None:
            yield _nobody
            return
        with self._tqdm.tqdm(total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024) as bar:
            yield bar.update


def _tqdm() -> ModuleType:
    try:
        return importlib.import_module("tqdm")
    except ImportError as error:
        raise errors.MissingPackage("progress=True needs tqdm: pip install tqdm") from error


def _nobody(_moved: int) -> None:
    pass
