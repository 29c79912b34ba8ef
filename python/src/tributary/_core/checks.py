"""What can be said of names and numbers before anything is sent."""

from __future__ import annotations

import math
import numbers
import re
from typing import TypeGuard

from tributary import errors

_JOB = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CLIENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")

_ROUND_MAX = 2**64 - 1

_SHOWN_MAX = 120
"""Characters of a value that errors show."""


def resource(kind: str, name: str) -> str:
    """The name of a job, function or tenant, if it can be one."""
    if not isinstance(name, str) or not _JOB.fullmatch(name):
        raise errors.InvalidName(
            f"{name!r} cannot be the name of a {kind}: 1 to 63 characters of a-z, 0-9 and -, "
            "with a letter or digit at both ends"
        )
    return name


def client(name: str) -> str:
    """A client's name, if it can be one."""
    if not isinstance(name, str) or not _CLIENT.fullmatch(name):
        raise errors.InvalidName(
            f"{name!r} cannot be the name of a client: 1 to 128 characters of A-Z, a-z, 0-9, '.', '_' and '-', "
            "not '.' or '..'"
        )
    return name


def weight(value: float) -> float:
    """A weight, if it is a finite number greater than 0."""
    if not _real(value):
        raise errors.BadWeight(f"weight is {_shown(value)}, which is no number; give the client's number of examples")
    number = _float(value)
    if not math.isfinite(number) or number <= 0:
        raise errors.BadWeight(
            f"weight is {_shown(value)}; it must be a finite number greater than 0: give the client's number of "
            "examples, and push nothing for a client without any"
        )
    return number


def round_number(value: int) -> int:
    """A round's number, if it can be one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= value <= _ROUND_MAX:
        raise errors.InvalidArgument(f"round is {_shown(value)}; give the version of the model that was trained from")
    return int(value)


def seconds(what: str, value: float, *, zero: bool = True) -> float:
    """A time in seconds, if it can be one."""
    number = _float(value) if _real(value) else math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise errors.InvalidArgument(f"{what} is {_shown(value)}; give a number of seconds{'' if zero else ' above 0'}")
    return number


def _real(value: object) -> TypeGuard[numbers.Real]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _float(value: numbers.Real) -> float:
    """As a float; infinity if it is beyond all of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        return f"a {type(value).__name__} of very many digits"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
