"""What happens on a server, as CloudEvents."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tributary import errors

PREFIX = "dev.tributary."


@dataclasses.dataclass(frozen=True)
class Event:
    """A CloudEvent 1.0.

    Attributes:
        id: unique for its source.
        type: what happened, such as ``dev.tributary.model.published``.
        source: ``/nodes/<node>``.
        subject: ``jobs/<job>``; ``None`` when no job is concerned.
        time: when, in UTC; Python keeps microseconds of the server's nanoseconds.
        data: the event's own fields, such as ``round``; empty if it has none.
    """

    id: str
    type: str
    source: str
    subject: str | None
    time: datetime | None
    data: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The type without its prefix, such as ``model.published``."""
        return self.type.removeprefix(PREFIX)

    @property
    def job(self) -> str | None:
        """The job's name, if a job is concerned."""
        subject = self.subject or ""
        return subject.removeprefix("jobs/") if subject.startswith("jobs/") else None

    @classmethod
    def parse(cls, text: str) -> Event:
        """Reads an event in its JSON form.

        Raises:
            ProtocolError: it is none.
        """
        try:
            event = json.loads(text)
            time = event.get("time")
            return cls(
                id=event["id"],
                type=event["type"],
                source=event["source"],
                subject=event.get("subject"),
                time=_time(time) if time else None,
                data=event.get("data") or {},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.ProtocolError(f"not a CloudEvent ({error}): {text:.200}") from error


def _time(text: str) -> datetime:
    # Python 3.10 knows neither nanoseconds nor Z.
    text = re.sub(r"(\.\d{6})\d*", r"\1", text.replace("Z", "+00:00"))
    text = re.sub(r"\.(\d{1,5})(?=[+-])", lambda part: "." + part[1].ljust(6, "0"), text)
    return datetime.fromisoformat(text)
