"""From problem documents to errors."""

from __future__ import annotations

import json
from typing import Any

from tributary import errors
from tributary._core.address import Address
from tributary._core.http import REDIRECTS, Head
from tributary._core.places import destination

MEDIA_TYPE = "application/problem+json"


def _all(kind: type[errors.Problem]) -> list[type[errors.Problem]]:
    return [kind, *(below for direct in kind.__subclasses__() for below in _all(direct))]


CLASSES = {kind.slug: kind for kind in _all(errors.Problem) if "slug" in vars(kind) and kind is not errors.Problem}
"""The class of each slug."""


def read(head: Head, body: bytes | bytearray, address: Address, target: str) -> errors.Problem:
    """The error that an answer of 307, 308, 4xx or 5xx to a request tells."""
    if head.status in REDIRECTS:
        return _elsewhere(head, address, target)
    document = _document(head, body)
    if document is None:
        detail = f"{address} answered {head.status} without saying why; is it a Tributary server?"
        return errors.Problem(detail, status=head.status, retry_after=head.retry_after)
    slug = str(document.pop("type", "")).rsplit("/", 1)[-1]
    kind = CLASSES.get(slug, errors.Problem)
    title, detail = str(document.pop("title", "")), str(document.pop("detail", ""))
    document.pop("status", None)
    return kind(detail, slug=slug, status=head.status, title=title, members=document, retry_after=head.retry_after)


def _elsewhere(head: Head, address: Address, target: str) -> errors.Elsewhere:
    location = head.headers.get("location")
    if location is None:
        raise errors.ProtocolError(f"{address} answered {head.status} without saying where; is it a Tributary server?")
    there = destination(location, address, target)
    return errors.Elsewhere(f"{address} redirects to {there}", status=head.status, location=str(there))


def _document(head: Head, body: bytes | bytearray) -> dict[str, Any] | None:
    if not head.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return None
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
