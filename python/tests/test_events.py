"""Events: heard as they happen, also after the connection was lost."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest

from conftest import SMALL, MakeClient, MakeJob, make_job
from process import Process
from tributary import Client, Event, Server, errors


def test_a_round_as_events(new_job: MakeJob, new_client: MakeClient) -> None:
    job = new_job(rounds=1)
    client, other = new_client(job), new_client(new_job())
    with client.events() as events:
        other.push(SMALL, round=1)
        client.push(SMALL, round=1)
        heard = {}
        for event in events:
            heard[event.kind] = event
            if event.kind == "job.completed":
                break
    assert {"update.accepted", "round.closed", "round.completed", "model.published"} <= set(heard)
    assert {event.job for event in heard.values()} == {job}
    published = heard["model.published"]
    assert (published.type, published.data["version"]) == ("dev.tributary.model.published", 2)
    assert published.subject == f"jobs/{job}"
    assert published.source.startswith("/nodes/")
    assert published.time is not None
    assert published.time.tzinfo is not None
    assert heard["round.closed"].data["reason"] == "full"


def test_events_of_all_jobs(new_job: MakeJob, new_client: MakeClient, server: Server) -> None:
    with server.events() as events:
        job = new_job()
        applied = next(event for event in events if event.kind == "job.applied")
        assert (applied.job, applied.data["action"]) == (job, "created")


def test_the_stream_connects_again(own_process: Process, tmp_path: Path) -> None:
    job = make_job(own_process.address, tmp_path, expected=64)
    with Client(own_process.address, job, "client") as client, client.events() as events:
        client.push(SMALL, round=1)
        assert next(events).kind == "update.accepted"
        own_process.kill()
        heard: list[Event] = []
        listening = threading.Thread(target=lambda: heard.append(next(events)))
        listening.start()
        own_process.start()
        for number in range(60):
            # What happens before the stream is there again is not heard.
            client.push(SMALL, round=1, name=f"client-{number}")
            listening.join(0.2)
            if heard:
                break
        assert (heard[0].kind, heard[0].job) == ("update.accepted", job)


def test_the_stream_gives_up_with_a_name(own_process: Process, tmp_path: Path) -> None:
    job = make_job(own_process.address, tmp_path)
    with Client(own_process.address, job, patience=0) as client, client.events() as events:
        own_process.kill()
        with pytest.raises(errors.ServerUnreachable):
            next(events)


def test_closing_ends_an_iteration_in_another_thread(new_job: MakeJob, new_client: MakeClient) -> None:
    events = new_client(new_job()).events()
    listening = threading.Thread(target=lambda: list(events))
    listening.start()
    events.close()
    events.close()
    listening.join()
    assert list(events) == []


def test_times_in_any_precision() -> None:
    form = '{{"id":"1","type":"t","source":"s","time":"2026-11-21T09:58:16{}Z"}}'
    for fraction, micros in (("", 0), (".5", 500_000), (".123443407", 123_443)):
        event = Event.parse(form.format(fraction))
        assert event.time == datetime(2026, 11, 21, 9, 58, 16, micros, timezone.utc)
        assert (event.job, event.data) == (None, {})
    for wrong in ("[]", "{}", "no json", '{"id":"1","type":"t","source":"s","time":"noon"}'):
        with pytest.raises(errors.ProtocolError):
            Event.parse(wrong)
