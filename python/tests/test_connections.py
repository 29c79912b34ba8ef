"""Connections that break at any byte, answers that get lost, servers that come and go: nobody is counted twice."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import SMALL, MakeClient, MakeJob, make_job
from process import Process, eventually, free_port
from proxy import Plan, Proxy
from tributary import Client, Server, errors

BIG = {"a": np.arange(1 << 18, dtype=np.float32), "b": np.ones((16, 16), np.float32)}
BIG_BYTES = (1 << 20) + 1024


@pytest.mark.parametrize("cut", [1, 40, 200, 300, 5_000, BIG_BYTES // 2, BIG_BYTES])
def test_cut_while_sending(
    process: Process, new_job: MakeJob, new_client: MakeClient, server: Server, cut: int
) -> None:
    job = new_job(BIG, expected=2)
    with Proxy(process.address, Plan(cut_after=cut), Plan(cut_after=cut)) as proxy:
        done = new_client(job, "cut", proxy.address).push(BIG, round=1, weight=3)
        assert proxy.connections == 3
    assert (done.contributors, done.round) == (1, 1)
    new_client(job, "other").push({name: array * 3 for name, array in BIG.items()}, round=1, weight=1)
    model = new_client(job).pull(after=1, wait=60)
    assert model is not None
    np.testing.assert_allclose(model["a"], BIG["a"] * (3 + 3) / 4)
    assert server.round(job, 1).contributors == 2


@pytest.mark.parametrize("kind", ["first", "repeated"])
def test_a_lost_answer_is_no_error(
    process: Process, new_job: MakeJob, new_client: MakeClient, server: Server, kind: str
) -> None:
    job = new_job(BIG, expected=2)
    plans = [Plan(swallow=True)] * (1 if kind == "first" else 3)
    with Proxy(process.address, *plans) as proxy:
        done = new_client(job, "unlucky", proxy.address).push(BIG, round=1)
    assert done.repeated
    assert done.contributors == 1
    assert server.job(job).accepted == 1


def test_a_lost_answer_of_the_last_update_of_a_round(
    process: Process, new_job: MakeJob, new_client: MakeClient, server: Server
) -> None:
    """The round is over when the bytes come again; the server still knows them."""
    job = new_job(rounds=1)
    with Proxy(process.address, Plan(swallow=True)) as proxy:
        done = new_client(job, "last", proxy.address).push(SMALL, round=1)
    assert done.repeated
    eventually(lambda: server.job(job).phase == "completed", "the job is completed")
    assert server.round(job, 1).contributors == 1


def test_an_answer_lost_for_too_long_says_so(process: Process, new_job: MakeJob, new_client: MakeClient) -> None:
    job = new_job()
    plan = Plan(swallow=True)
    with Proxy(process.address, plan) as proxy:
        late = new_client(job, "late", proxy.address, patience=60)
        sleeping = late._core._session.reactor

        async def meanwhile(seconds: float) -> None:
            for version in (2, 3):
                assert new_client(job).pull(after=version - 1, wait=60) is not None
                new_client(job, "fast").push(SMALL, round=version)
            assert new_client(job).pull(after=3, wait=60) is not None

        sleeping.sleep = meanwhile  # type: ignore[method-assign]
        with pytest.raises(errors.WrongRound, match="may be part of its round's model"):
            late.push(SMALL, round=1)


@pytest.mark.parametrize("cut", [10, 150, 4_000, 1 << 19])
def test_a_model_that_breaks_off_is_fetched_again(
    process: Process, new_job: MakeJob, new_client: MakeClient, cut: int
) -> None:
    with Proxy(process.address, Plan(cut_answer_after=cut)) as proxy:
        model = new_client(new_job(BIG), address=proxy.address).pull()
    np.testing.assert_array_equal(model["a"], BIG["a"])


def test_patience_ends_with_a_name(process: Process, new_job: MakeJob, new_client: MakeClient) -> None:
    job = new_job(BIG)
    with Proxy(process.address, *[Plan(cut_after=5_000)] * 100) as proxy:
        with pytest.raises(errors.ConnectionLost, match=r"attempts in") as caught:
            new_client(job, address=proxy.address, patience=0.3).push(BIG, round=1)
        assert proxy.address in str(caught.value)
        assert caught.value.attempts > 1
        assert isinstance(caught.value, errors.ServerUnreachable)


def test_a_silent_server_has_a_name(new_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(errors.ServerTimeout, match=r"nothing for 0\.2 s; raise `timeout=`"):
            new_client("job", address=address, timeout=0.2, patience=0).pull()


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"])
def test_somebody_else_has_a_name(new_client: MakeClient, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def serve() -> None:
            connection, _ = other.accept()
            connection.recv(4096)
            connection.sendall(answer)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(errors.ProtocolError):
            new_client("job", address=f"http://127.0.0.1:{other.getsockname()[1]}", patience=0).pull()


# === servers that come and go ===


def test_nobody_there(new_client: MakeClient) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    client = new_client("job", address=address, patience=0)
    for call in (client.pull, lambda: client.push(SMALL, round=1), client.events):
        with pytest.raises(errors.ServerUnreachable, match="connection refused; is `tributary up` running") as caught:
            call()
        assert address in str(caught.value)
        assert isinstance(caught.value, ConnectionError)
    assert not Server(address).health()


def test_no_such_host(new_client: MakeClient) -> None:
    with pytest.raises(errors.ServerUnreachable, match="cannot be resolved"):
        new_client("job", address="http://no-such-host.invalid", patience=0).pull()


def test_a_server_that_starts_later(own_process: Process, tmp_path: Path) -> None:
    job = make_job(own_process.address, tmp_path)
    own_process.stop()
    client = Client(own_process.address, job, "early")
    starting = _later(own_process.start)
    assert client.pull().version == 1
    starting.join()


def test_killed_between_rounds(own_process: Process, tmp_path: Path) -> None:
    job = make_job(own_process.address, tmp_path)
    with Client(own_process.address, job, "patient") as client:
        model = client.pull()
        client.push(model)
        assert client.pull(after=1, wait=60) is not None
        own_process.kill()
        starting = _later(own_process.start)
        assert client.push(SMALL).round == 2
        starting.join()
        assert client.pull(after=2, wait=60) is not None


def test_killed_in_mid_upload(own_process: Process, tmp_path: Path) -> None:
    job = make_job(own_process.address, tmp_path, BIG)
    plan = Plan(stall_after=BIG_BYTES // 2)
    with Proxy(own_process.address, plan) as proxy, Client(proxy.address, job, "patient") as client:

        def restart() -> None:
            assert plan.stalled.wait(60)
            own_process.kill()
            plan.go.set()
            own_process.start()

        restarting = threading.Thread(target=restart)
        restarting.start()
        done = client.push(BIG, round=1)
        restarting.join()
        assert (done.contributors, done.repeated) == (1, False)
        new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["a"], BIG["a"])


def test_killed_while_a_model_is_waited_for(own_process: Process, tmp_path: Path) -> None:
    job = make_job(own_process.address, tmp_path)
    with Client(own_process.address, job, "waiting") as client, Client(own_process.address, job, "other") as other:

        def restart() -> None:
            own_process.kill()
            own_process.start()
            other.push(SMALL, round=1)

        restarting = _later(restart)
        model = client.pull(after=1, wait=120)
        restarting.join()
    assert model is not None
    assert model.version == 2


def _later(what: Callable[[], None]) -> threading.Thread:
    """Does it in another thread, when this one has had time to fail at least once."""

    def after() -> None:
        time.sleep(0.3)
        what()

    thread = threading.Thread(target=after)
    thread.start()
    return thread


# === kept connections ===


def test_one_connection_is_enough(process: Process, new_job: MakeJob, new_client: MakeClient) -> None:
    with Proxy(process.address) as proxy:
        client = new_client(new_job(), address=proxy.address)
        for version in range(1, 6):
            model = client.pull() if version == 1 else client.pull(after=version - 1, wait=60)
            assert model is not None
            with pytest.raises(errors.NonFinite):
                client.push({**model, "step": np.float32("nan")})
            client.push(model)
        assert proxy.connections == 1


def test_a_kept_connection_that_the_server_has_closed(own_process: Process, tmp_path: Path) -> None:
    job = make_job(own_process.address, tmp_path)
    with Client(own_process.address, job, "client", patience=0) as client:
        client.pull()
        own_process.stop()
        own_process.start()
        assert client.push(SMALL).round == 1


def test_threads_share_a_client(new_job: MakeJob, new_client: MakeClient, server: Server) -> None:
    job = new_job(BIG, expected=16)
    client = new_client(job)
    model = client.pull()
    failures: list[BaseException] = []

    def push(number: int) -> None:
        try:
            client.push(model, name=f"client-{number}", weight=number + 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_allclose(new["a"], BIG["a"], rtol=1e-6)
    assert server.round(job, 1).contributors == 16


def test_a_closed_client_says_so(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job())
    with client:
        client.pull()
    client.close()
    with pytest.raises(errors.Closed):
        client.pull()


def test_pickled(new_job: MakeJob, new_client: MakeClient, server: Server) -> None:
    client = new_client(new_job())
    model = client.pull()
    with pickle.loads(pickle.dumps(client)) as again:
        assert (again.address, again.job, again.name, again.version) == (client.address, client.job, client.name, 1)
        with pytest.raises(errors.LayoutMismatch) as caught:
            again.push({})
        assert caught.value.status is None
        copied = pickle.loads(pickle.dumps(model))
        assert repr(copied) == repr(model)
        assert again.push(copied).round == 1
    assert pickle.loads(pickle.dumps(server)).functions() == server.functions()


def _push_in_child(client: Client, name: str) -> None:
    client.push(SMALL, name=name)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_forked(new_job: MakeJob, new_client: MakeClient, server: Server) -> None:
    job = new_job(expected=9)
    client = new_client(job)
    client.pull()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_push_in_child, args=(client, f"child-{number}")) for number in range(4)]
    for child in children:
        child.start()
    client.push(SMALL, name="parent")
    for child in children:
        child.join()
        assert child.exitcode == 0
    client.push(SMALL, name="parent-2")
    assert server.job(job).accepted == 6


def test_many_open_files(process: Process, new_job: MakeJob, new_client: MakeClient) -> None:
    """select() could not watch the socket any more."""
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert new_client(new_job()).pull().version == 1
    finally:
        for number in held:
            os.close(number)


def test_repr_shows_who_it_is() -> None:
    client = Client("http://127.0.0.1:7878", "digits", "client-07")
    assert repr(client) == "Client('http://127.0.0.1:7878', job='digits', name='client-07')"
    assert repr(Server("http://127.0.0.1:7878")) == "Server('http://127.0.0.1:7878')"
