"""Where requests go, without I/O: given addresses, homes, and redirects."""

from __future__ import annotations

import pickle

import pytest

from tributary import Client, Server, errors
from tributary._core.address import Address
from tributary._core.places import HOMES_MAX, HOPS_MAX, Places, Trail, destination

A, B, C = (Address("127.0.0.1", port) for port in (1, 2, 3))


def test_the_next_address_is_first_once_one_has_failed() -> None:
    places = Places([A, B, C])
    order = []
    for _ in range(4):
        order.append(places.of("x"))
        places.failed([places.of("x")])
    assert order == [A, B, C, A]
    places.failed([A])
    assert places.of("x") == B, "what is not asked first may fail without changing who is"


def test_homes_are_remembered_until_they_fail() -> None:
    places = Places([A, B])
    assert Places([A]).several is False
    places.remember("x", C)
    places.remember("y", C)
    assert (places.of("x"), places.of("z")) == (C, A)
    places.failed([C])
    assert (places.of("x"), places.of("y")) == (A, A)


def test_who_leads_to_a_dead_end_is_not_asked_first() -> None:
    places = Places([A, B])
    trail = Trail(places, "x")
    trail.redirected(errors.Elsewhere("", status=307, location=str(C)))
    assert trail.here == places.of("x") == C
    trail.failed()
    assert places.of("x") == B


def test_memory_is_bounded() -> None:
    places = Places([A])
    for number in range(3 * HOMES_MAX):
        places.remember(f"client-{number}", B)
    assert len(places._homes) <= HOMES_MAX
    assert places.of(f"client-{3 * HOMES_MAX - 1}") == B


@pytest.mark.parametrize("hops", [1, HOPS_MAX, HOPS_MAX + 1])
def test_hops_are_counted(hops: int) -> None:
    trail = Trail(Places([A]), "x")
    for number in range(hops):
        redirect = errors.Elsewhere("", status=307, location=f"http://127.0.0.1:{10 + number}")
        if number == HOPS_MAX:
            with pytest.raises(errors.Elsewhere, match=r"more than 5 times, from http://127\.0\.0\.1:1 to http"):
                trail.redirected(redirect)
        else:
            trail.redirected(redirect)


def test_where_redirects_may_lead() -> None:
    target = "/v1/jobs/job/updates/c?round=1"
    assert destination("http://127.0.0.1:2/v1/jobs/job/updates/c?round=1", A, target) == B
    assert destination("http://127.0.0.1:2/v1/jobs/job/updates/c", A, "/v1/jobs/job/updates/c/slot?round=1") == B
    assert destination("/v1/jobs/job/updates/c", A, target) == A
    for wrong in (
        "https://127.0.0.1:2/v1/jobs/job/updates/c",
        "ftp://127.0.0.1:2/v1/jobs/job/updates/c",
        "http://127.0.0.1:2/login",
        "http://user:secret@127.0.0.1:2/v1/jobs/job/updates/c",
        "http://127.0.0.1:port/v1/jobs/job/updates/c",
        "http://[::1/v1/jobs/job/updates/c",
    ):
        with pytest.raises(errors.ProtocolError) as caught:
            destination(wrong, A, target)
        assert "secret" not in str(caught.value)


def test_addresses_are_one_or_several() -> None:
    client = Client(["http://b:1", "a:2", "b:1"], "job", "me")
    assert client.addresses == ("http://b:1", "http://a:2")
    assert client.address == "http://b:1"
    assert repr(client) == "Client(['http://b:1', 'http://a:2'], job='job', name='me')"
    assert pickle.loads(pickle.dumps(client)).addresses == client.addresses
    assert repr(Server(["http://b:1", "a:2"])) == "Server(['http://b:1', 'http://a:2'])"
    assert pickle.loads(pickle.dumps(Server(["http://b:1", "a:2"]))).addresses == client.addresses
    for wrong in ([], ["http://a", "https://b"]):
        with pytest.raises(errors.InvalidAddress):
            Client(wrong, "job")
