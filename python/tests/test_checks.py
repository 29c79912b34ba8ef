"""What is wrong with an update is found before a byte of it is sent, and named."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import SMALL, MakeJob
from process import Process
from proxy import Proxy
from tributary import Client, Server, errors
from tributary.manifest import Job

#: What Python itself refuses to write down.
VERY_MANY_DIGITS = pytest.param(-(10**5000), id="very many digits")


@pytest.fixture(scope="module")
def proxy(process: Process) -> Iterator[Proxy]:
    with Proxy(process.address) as counting:
        yield counting


@pytest.fixture
def client(proxy: Proxy, new_job: MakeJob) -> Iterator[Client]:
    """One that has pulled; its bytes are counted."""
    with Client(proxy.address, new_job(), "client-00") as made:
        made.pull()
        yield made


def changed(**tensors: Any) -> dict[str, Any]:
    update: dict[str, Any] = dict(SMALL)
    for name, tensor in tensors.items():
        update[name.replace("_", ".")] = tensor
    return {name: tensor for name, tensor in update.items() if tensor is not None}


f4 = np.float32

MISMATCHES: dict[str, tuple[Any, str | None, str]] = {
    "a tensor is missing": (changed(head_bias=None), "head.bias", "expected F32 of shape [3], got no such tensor"),
    "a tensor too many": (changed(extra=np.zeros(2, f4)), "extra", "the model has 'head.bias', 'head.weight'"),
    "a name is misspelt": (
        changed(head_bias=None, head_bais=np.zeros(3, f4)),
        "head.bais",
        "the nearest name that the model has is 'head.bias'",
    ),
    "another shape": (
        changed(head_weight=np.zeros((4, 3), f4)),
        "head.weight",
        "expected shape [3, 4], got shape [4, 3]",
    ),
    "1-d instead of 0-d": (changed(step=np.zeros(1, f4)), "step", "expected shape [], got shape [1]"),
    "0-d instead of 1-d": (changed(head_bias=f4(0)), "head.bias", "expected shape [3], got shape []"),
    "float64": (changed(step=np.float64(1)), "step", "expected float32, got float64; pass cast=True, or convert it"),
    "integers": (changed(head_bias=np.zeros(3, "i8")), "head.bias", "expected float32, got int64; pass cast=True"),
    "objects": (changed(head_bias=np.array([1, 2, None])), "head.bias", "got object; only numbers can be averaged"),
    "text": (changed(head_bias=np.array(["a", "b", "c"])), "head.bias", "only numbers can be averaged"),
    "complex numbers": (changed(head_bias=np.zeros(3, "c8")), "head.bias", "only numbers can be averaged"),
    "mixed encodings": (changed(step=np.float16(0)), "step", "expected F32, as tensor 'head.bias' is, got F16"),
    "a list": (changed(head_bias=[0.0, 0.0, 0.0]), "head.bias", "expected a numpy array or a torch tensor, got list"),
    "a module": (object(), None, "expected a mapping of names to arrays, a Model, or the path"),
    "a list of arrays": (list(SMALL.values()), None, "got list; with torch push module.state_dict()"),
    "a name that is no str": ({**SMALL, 3: np.zeros(1)}, "3", "expected a str as its name, got int"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_layout(client: Client, proxy: Proxy, case: str) -> None:
    update, tensor, words = MISMATCHES[case]
    sent = proxy.received
    with pytest.raises(errors.LayoutMismatch) as caught:
        client.push(update)
    error = caught.value
    assert words in str(error)
    assert (error.tensor, error.status, error.slug) == (tensor, None, "layout-mismatch")
    assert error.expected
    assert error.got
    if tensor is not None:
        assert repr(tensor) in str(error)
    assert proxy.received == sent, "nothing was sent"


def test_cast_does_not_hide_what_is_no_number(client: Client) -> None:
    with pytest.raises(errors.LayoutMismatch, match="only numbers"):
        client.push(changed(head_bias=np.array([1, 2, None])), cast=True)


def test_the_layout_of_a_file(client: Client, proxy: Proxy, tmp_path: Path) -> None:
    save_file(changed(head_bias=np.zeros(4, f4)), tmp_path / "update.safetensors")
    sent = proxy.received
    with pytest.raises(errors.LayoutMismatch, match=r"'head.bias': expected shape \[3\], got shape \[4\]"):
        client.push(tmp_path / "update.safetensors")
    assert proxy.received == sent


def test_what_is_too_large_for_its_type_is_named(client: Client) -> None:
    with pytest.raises(errors.NonFinite, match=r"head.bias\[1\]: 1e\+300 does not fit f32") as caught:
        client.push(changed(head_bias=np.array([1, 1e300, np.inf])), cast=True)
    assert caught.value.status is None
    with pytest.raises(errors.NonFinite, match=r"head.weight\[1, 2\]: 70000.0 does not fit f16"):
        client.push(changed(head_weight=np.where(np.arange(12) == 6, f4(70000), f4(1)).reshape(3, 4)), encoding="f16")
    # What was infinite before is the server's to judge, and the connection goes on.
    with pytest.raises(errors.NonFinite, match=r"head.bias\[2\]") as caught:
        client.push(changed(head_bias=np.array([1, 2, np.inf])), cast=True)
    assert caught.value.status == 422


@pytest.mark.parametrize("wide", [np.float16, np.float64])
def test_each_remedy_for_mixed_types_is_one(client: Client, wide: type[Any]) -> None:
    mixed = changed(step=wide(0))
    with pytest.raises(errors.LayoutMismatch) as caught:
        client.push(mixed)
    remedy: Any = {"encoding": "f32"} if "pass encoding='f32'" in str(caught.value) else {"cast": True}
    assert client.push(mixed, **remedy).round == 1


class Strange:
    """An array whose own code fails, and numpy's stand-in for one."""

    def __init__(self, shape: Any, dtype: str = "float32", stands_for: Any = None) -> None:
        self.shape, self.dtype, self._stands_for = shape, np.dtype(dtype), stands_for

    def __array__(self, *_: Any, **__: Any) -> Any:
        if self._stands_for is None:
            raise RuntimeError("it lies on another planet")
        return self._stands_for


STRANGE: dict[str, Any] = {
    "no array": Strange((3,)),
    "no shape": Strange((None,)),
    "other numbers": Strange((3,), stands_for=np.ones(3, np.int32)),
    "masked": np.ma.masked_array(np.ones(3, f4), [False, True, False]),
}


@pytest.mark.parametrize("local", [False, "auto"])
@pytest.mark.parametrize("case", STRANGE)
def test_an_array_that_cannot_be_read_is_named(client: Client, case: str, local: Any) -> None:
    with Client(client.address, client.job, "strange", local=local) as other:
        other.pull()
        with pytest.raises(errors.LayoutMismatch, match=r"tensor 'head\.bias': expected"):
            other.push(changed(head_bias=STRANGE[case]))
        assert other.push(SMALL).round == 1


def test_names_that_no_file_can_hold(client: Client) -> None:
    for name in ("__metadata__", "half \ud800"):
        with pytest.raises(errors.LayoutMismatch, match="one that no safetensors file can hold"):
            client.push({name: np.zeros(1, f4)}, round=1)


@pytest.mark.parametrize(
    "header", ['{"__metadata__": [1]}', '{"a": ' + "[" * 5000, '{"a": {"dtype": "F32", "shape": [1e999]}}']
)
def test_files_that_are_no_safetensors_files_are_the_servers_to_judge(
    client: Client, tmp_path: Path, header: str
) -> None:
    path = tmp_path / "update.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(errors.UpdateRefused) as caught:
        client.push(path, round=1)
    assert caught.value.status in (400, 413)


@pytest.mark.parametrize(
    "weight", [0, -1, float("nan"), float("inf"), -0.0, "12", True, 10**400, Fraction(10**400), VERY_MANY_DIGITS]
)
def test_weights(client: Client, proxy: Proxy, weight: Any) -> None:
    sent = proxy.received
    with pytest.raises(errors.BadWeight, match="weight is") as caught:
        client.push(SMALL, weight=weight)
    assert caught.value.status is None
    assert proxy.received == sent


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü", "a" * 129, "a\r\nHost: b"])
def test_names_of_clients(client: Client, name: str) -> None:
    with pytest.raises(errors.InvalidName, match="cannot be the name of a client"):
        client.push(SMALL, name=name)
    with pytest.raises(errors.InvalidName):
        Client(client.address, "job", name)


def test_no_name(client: Client) -> None:
    with pytest.raises(errors.InvalidName, match="give name="):
        Client(client.address, client.job).push(SMALL, round=1)


@pytest.mark.parametrize("job", ["", "A", "-a", "a-", "a" * 64, "a/../b"])
def test_names_of_jobs(job: str) -> None:
    with pytest.raises(errors.InvalidName, match="cannot be the name of a job"):
        Client("http://127.0.0.1:1", job, "client")


@pytest.mark.parametrize("round_number", [-1, 1.5, "1", True, 2**64, VERY_MANY_DIGITS])
def test_rounds(client: Client, round_number: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="round is"):
        client.push(SMALL, round=round_number)


def test_no_round(client: Client) -> None:
    with pytest.raises(errors.NoRound, match=r"call pull\(\) first"):
        Client(client.address, client.job, "other").push(SMALL)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://host:1", "plain HTTP only"),
        ("ftp://host", "no address of a server"),
        ("http://", "no address of a server"),
        ("http://host:99999", "is no address"),
        ("http://host/path", "no address of a server"),
        ("http://me:secret@host", "no authentication"),
    ],
)
def test_addresses(address: str, words: str) -> None:
    with pytest.raises(errors.InvalidAddress, match=words) as caught:
        Client(address, "job", "client")
    assert "secret" not in str(caught.value)


def test_short_addresses() -> None:
    assert Client("localhost:7878", "job").address == "http://localhost:7878"
    assert Client("http://host/", "job").address == "http://host:80"
    assert Client("http://[::1]:7", "job").address == "http://[::1]:7"


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": 10**400},
        {"patience": -1},
        {"patience": float("inf")},
        {"local": "yes"},
    ],
)
def test_options(options: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument):
        Client("http://127.0.0.1:1", "job", **options)


def test_unknown_encoding(client: Client, tmp_path: Path) -> None:
    encoding: Any = "f8"
    with pytest.raises(errors.InvalidArgument, match="there are 'f32', 'f16' and 'bf16'"):
        client.push(SMALL, encoding=encoding)
    save_file(dict(SMALL), tmp_path / "update.safetensors")
    with pytest.raises(errors.InvalidArgument, match="encoding= is for arrays"):
        client.push(tmp_path / "update.safetensors", encoding="f16")


def test_a_path_that_is_not_there(client: Client) -> None:
    with pytest.raises(FileNotFoundError):
        client.push("/nowhere/update.safetensors")


def test_errors_can_be_pickled(client: Client) -> None:
    with pytest.raises(errors.LayoutMismatch) as caught:
        client.push({})
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.tensor) == (errors.LayoutMismatch, str(caught.value), caught.value.tensor)
    lost = errors.ConnectionLost("http://a:1", "reset", seconds=2, attempts=3)
    assert str(pickle.loads(pickle.dumps(lost))) == str(lost)


def test_a_manifest_that_the_server_refuses(server: Server) -> None:
    with pytest.raises(errors.InvalidManifest) as caught:
        server.apply(Job("bad", "nothing", "sha256:" + "0" * 64, expected=0))
    assert {error["path"] for error in caught.value.errors} >= {"spec.round.expected"}
