"""Every refusal of the real server becomes an error of its class, also when it comes before the update was sent."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import SMALL, MakeClient, MakeJob
from process import ROOT, Process, eventually
from proxy import Plan, Proxy
from tributary import Server, errors
from tributary._core.problems import CLASSES


def test_every_slug_of_the_interface_has_a_class() -> None:
    text = (ROOT / "docs/http.md").read_text()
    table = text[text.index("\n## Errors") :]
    rows = re.findall(r"^\| \d{3} \| (`.+?`) \|", table, re.MULTILINE)
    slugs = {slug for row in rows for slug in re.findall(r"`([a-z-]+)`", row)}
    assert len(slugs) > 25
    # The client may know slugs of other processes, such as controllers'.
    assert slugs <= set(CLASSES)


def test_wrong_round(new_job: MakeJob, new_client: MakeClient) -> None:
    job = new_job()
    slow, fast = new_client(job, "slow"), new_client(job, "fast")
    model = slow.pull()
    fast.pull()
    fast.push(SMALL)
    assert fast.pull(after=1, wait=60) is not None
    with pytest.raises(errors.WrongRound, match="pull the newest model") as caught:
        slow.push(model)
    assert (caught.value.round, caught.value.status) == (2, 409)
    assert caught.value.members == {"round": 2}
    slow.pull()
    assert slow.push(model).round == 2


def test_other_bytes(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job(expected=2))
    client.pull()
    client.push(SMALL)
    with pytest.raises(errors.OtherBytes):
        client.push({name: array + 1 for name, array in SMALL.items()})
    with pytest.raises(errors.OtherBytes):
        client.push(SMALL, weight=2)
    assert client.push(SMALL).repeated


def test_non_finite(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job())
    client.pull()
    weight = SMALL["head.weight"].copy()
    weight[1, 2] = np.nan
    with pytest.raises(errors.NonFinite, match=r"head\.weight.*NaN"):
        client.push({**SMALL, "head.weight": weight})
    weight[1, 2] = 1e30
    with pytest.raises(errors.NonFinite, match="does not fit f16"):
        client.push({**SMALL, "head.weight": weight}, encoding="f16")
    weight[1, 2] = 0
    assert client.push({**SMALL, "head.weight": weight}).contributors == 1


def test_job_completed(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job(rounds=1))
    client.pull()
    client.push(SMALL)
    assert client.pull(after=1, wait=60) is not None
    with pytest.raises(errors.JobCompleted) as caught:
        client.push(SMALL)
    assert caught.value.version == 2


def test_unknown_job(new_client: MakeClient, server: Server) -> None:
    client = new_client("no-such-job")
    for call in (client.pull, lambda: client.push(SMALL, round=1), lambda: server.job("no-such-job")):
        with pytest.raises(errors.UnknownJob, match="no-such-job") as caught:
            call()
        assert isinstance(caught.value, LookupError)


def test_unknown_encoding_of_the_function(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job(function="mean", config=None))
    client.pull()
    with pytest.raises(errors.UnsupportedEncoding, match="send it in F32"):
        client.push(SMALL, encoding="f16")
    assert client.push(SMALL).contributors == 1


def test_the_server_finds_what_nobody_has_pulled(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job())
    with pytest.raises(errors.LayoutMismatch) as caught:
        client.push({"other": np.zeros(3, np.float32)}, round=1)
    assert caught.value.status == 422


def test_a_file_that_is_none(new_job: MakeJob, new_client: MakeClient, tmp_path: Path) -> None:
    client = new_client(new_job())
    client.pull()
    (tmp_path / "update").write_bytes(b"\xff" * 64)
    with pytest.raises(errors.MalformedUpdate):
        client.push(tmp_path / "update")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(errors.MalformedUpdate, match="it has 0 bytes"):
        client.push(tmp_path / "empty")


@pytest.mark.parametrize("kind", ["arrays", "file"])
def test_an_early_answer_is_heard_while_sending(
    new_job: MakeJob, new_client: MakeClient, tmp_path: Path, kind: str
) -> None:
    """The server answers at the header, and closes when more than 1 MiB is left: no broken pipe, and no upload."""
    client = new_client(new_job())
    big = {"head.weight": np.zeros(16 << 20, np.float32)}
    if kind == "file":
        save_file(big, tmp_path / "big")
    with pytest.raises(errors.UpdateTooLarge) as caught:
        client.push(tmp_path / "big" if kind == "file" else big, round=1)
    assert caught.value.status == 413
    assert client.push(SMALL, round=1).contributors == 1


def test_an_early_answer_of_a_full_layout(new_job: MakeJob, new_client: MakeClient) -> None:
    job = new_job({"a": np.zeros(8 << 20, np.float32)})
    client = new_client(job)
    with pytest.raises(errors.LayoutMismatch):
        client.push({"b": np.zeros(8 << 20, np.float32)}, round=1)
    with pytest.raises(errors.WrongRound):
        client.push({"a": np.zeros(8 << 20, np.float32)}, round=9)


def test_stalled(process: Process, new_job: MakeJob, new_client: MakeClient) -> None:
    job = new_job({"a": np.zeros(1 << 20, np.float32)}, idle_timeout="200ms")
    with Proxy(process.address, Plan(stall_after=1 << 20)) as proxy:
        client = new_client(job, address=proxy.address, patience=0)
        with pytest.raises(errors.StalledUpdate) as caught:
            client.push({"a": np.zeros(1 << 20, np.float32)}, round=1)
        assert caught.value.status == 408
        patient = new_client(job, "patient", proxy.address)
        assert patient.push({"a": np.zeros(1 << 20, np.float32)}, round=1).contributors == 1


def test_no_slot_is_waited_for(process: Process, new_job: MakeJob, new_client: MakeClient) -> None:
    """While workers stand still, updates keep all slots; the push goes through when they go on."""
    job = new_job({"a": np.zeros(256, np.float32)}, expected=64, slots=12)
    update = {"a": np.ones(256, np.float32)}
    new_client(job, "first").push(update, round=1)

    def fill() -> None:
        for number in range(64):
            process.signal_workers(signal.SIGSTOP)
            new_client(job, f"taken-{number}", patience=0).push(update, round=1)

    try:
        with pytest.raises(errors.NoSlot) as caught:
            fill()
        assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
        refused = process.count_updates(job, "no-slot")

        def go_on() -> None:
            eventually(lambda: process.count_updates(job, "no-slot") > refused, "the push is refused once")
            process.signal_workers(signal.SIGCONT)

        going_on = threading.Thread(target=go_on)
        going_on.start()
        assert not new_client(job, "patient").push(update, round=1).repeated
        going_on.join()
    finally:
        process.signal_workers(signal.SIGCONT)


def test_functions_in_use(server: Server, new_job: MakeJob) -> None:
    job = new_job()
    with pytest.raises(errors.InUse, match=job):
        server.delete("function", "fedavg")
    server.delete("job", job)
    with pytest.raises(errors.UnknownJob):
        server.delete("job", job)
    with pytest.raises(errors.UnknownFunction):
        server.delete("function", "no-such-function")
    with pytest.raises(errors.UnknownRound):
        server.round(new_job(), 77)
