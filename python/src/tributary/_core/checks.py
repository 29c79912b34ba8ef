"""What can be said of names and numbers before anything is sent."""

from __future__ import annotations

import math
import numbers
import re

from tributary import errors

_JOB = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CLIENT = re.compile(r"[A-Za-z0-9._-]{1,128}")


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
            f"{name!r} cannot be the name of a client: 1 to 128 characters of A-Z, a-z, 0-9, '.', '_' and '-'"
        )
    return name


def weight(value: float) -> float:
    """A weight, if it is a finite number greater than 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise errors.BadWeight(f"weight is {value!r}, which is no number; give the client's number of examples")
    number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise errors.BadWeight(
            f"weight is {value!r}; it must be a finite number greater than 0: give the client's number of examples, "
            "and push nothing for a client without any"
        )
    return number


def round_number(value: int) -> int:
    """A round's number, if it can be one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise errors.InvalidArgument(f"round is {value!r}; give the version of the model that was trained from")
    return int(value)


def seconds(what: str, value: float, *, zero: bool = True) -> float:
    """A time in seconds, if it can be one."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        raise errors.InvalidArgument(f"{what} is {value!r}; give a number of seconds{'' if zero else ' above 0'}")
    return float(value)
