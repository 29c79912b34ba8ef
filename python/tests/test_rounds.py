"""Pull, train, push: what a client does all day."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import SMALL, MakeClient, MakeJob, make_job
from process import Process
from tributary import Job, Model, Server, errors


def test_a_round_gives_the_weighted_mean(new_job: MakeJob, new_client: MakeClient, server: Server) -> None:
    job = new_job(expected=3)
    client = new_client(job)
    model = client.pull()
    rng = np.random.default_rng(7)
    updates = [{name: rng.normal(size=array.shape).astype("f4") for name, array in model.items()} for _ in range(3)]
    for number, update in enumerate(updates):
        done = client.push(update, weight=number + 1, name=f"client-{number}")
        assert (done.job, done.client, done.round) == (job, f"client-{number}", 1)
        assert (done.contributors, done.repeated) == (number + 1, False)
    new = client.pull(after=model.version, wait=60)
    assert new is not None
    assert new.version == 2
    for name, array in new.items():
        mean = np.average([update[name].astype("f8") for update in updates], axis=0, weights=[1, 2, 3])
        np.testing.assert_allclose(array, mean, atol=1e-6)
    assert server.round(job, 1).contributors == 3


def test_a_model_is_a_mapping_of_views(new_job: MakeJob, new_client: MakeClient) -> None:
    job = new_job()
    model = new_client(job).pull()
    assert dict.fromkeys(model) == dict.fromkeys(SMALL)
    for name, array in SMALL.items():
        np.testing.assert_array_equal(model[name], array)
        assert model[name].dtype == np.float32
        assert not model[name].flags.owndata
    bases = {id(_root(array)) for array in model.values()}
    assert len(bases) == 1, "all arrays are views of the one buffer"
    assert (len(model), model.parameters, model.nbytes) == (3, 16, 64)
    assert repr(model) == f"<Model {job!r} version 1: 3 tensors, 16 parameters>"
    with pytest.raises(KeyError):
        model["nothing"]


def _root(array: np.ndarray[Any, Any]) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def test_training_in_place_and_pushing_the_model(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job())
    model = client.pull()
    model["head.weight"][:] += 1
    assert client.push(model).round == 1
    new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["head.weight"], SMALL["head.weight"] + 1)
    np.testing.assert_array_equal(new["step"], 0)


def test_waiting_for_a_model(new_job: MakeJob, new_client: MakeClient) -> None:
    job = new_job()
    client = new_client(job)
    assert client.pull(after=1) is None
    assert client.pull(after=1, wait=0.2) is None
    unknown = client.version
    assert unknown is None
    found: list[Model | None] = []
    waiting = threading.Thread(target=lambda: found.append(client.pull(after=1, wait=60)))
    waiting.start()
    # On a connection of its own: the other one waits.
    client.push(SMALL, round=1)
    waiting.join()
    assert found[0] is not None
    assert (found[0].version, client.version) == (2, 2)


def test_wait_needs_a_version(new_client: MakeClient) -> None:
    with pytest.raises(errors.InvalidArgument, match="after="):
        new_client("any").pull(wait=3)


def test_many_small_tensors(new_job: MakeJob, new_client: MakeClient) -> None:
    tensors = {f"layer.{number}": np.full(3, number, np.float32) for number in range(1500)}
    client = new_client(new_job(tensors))
    client.push({name: array + 1 for name, array in reversed(list(client.pull().items()))})
    new = client.pull(after=1, wait=60)
    assert new is not None
    for name, array in tensors.items():
        np.testing.assert_array_equal(new[name], array + 1)


def test_tensors_without_elements(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job({"empty": np.zeros((0, 3), "f4"), "full": np.ones(2, "f4")}))
    assert client.pull()["empty"].shape == (0, 3)
    client.push({"full": np.zeros(2, "f4"), "empty": np.zeros((0, 3), "f4")})
    new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["full"], [0, 0])


def test_weights_of_every_size(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job(expected=3, weight_max=1e18))
    client.pull()
    # 1e+16 has a plus sign, which queries would read as a space.
    for number, weight in enumerate((1e16, 1e-7, float(np.float32(3)))):
        client.push(SMALL, weight=weight, name=f"client-{number}")


# === kinds of updates ===


@pytest.mark.parametrize("metadata", [None, {"round": "1", "num_examples": "3"}])
def test_a_file(new_job: MakeJob, new_client: MakeClient, tmp_path: Path, metadata: dict[str, str] | None) -> None:
    client = new_client(new_job())
    path = tmp_path / "update.safetensors"
    save_file({name: np.asarray(array + 2) for name, array in SMALL.items()}, path, metadata)
    if metadata is None:
        with pytest.raises(errors.NoRound):
            client.push(path)
        assert client.push(path, round=1, weight=3).round == 1
    else:
        assert client.push(str(path)).round == 1
    new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["head.weight"], SMALL["head.weight"] + 2)


@pytest.mark.parametrize(("encoding", "kind"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_encodings(new_job: MakeJob, new_client: MakeClient, encoding: Any, kind: Any) -> None:
    client = new_client(new_job(expected=2))
    client.pull()
    client.push(SMALL, encoding=encoding, name="converted")
    client.push({name: array.astype(kind) for name, array in SMALL.items()}, name="of-that-type")
    new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["head.weight"], SMALL["head.weight"])


def test_arrays_that_have_to_be_converted(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job(expected=3))
    client.pull()
    weight = SMALL["head.weight"]
    transposed = {**SMALL, "head.weight": np.ascontiguousarray(weight.T).T}
    assert not transposed["head.weight"].flags.c_contiguous
    client.push(transposed, name="not-contiguous")
    client.push({name: array.astype(">f4") for name, array in SMALL.items()}, name="big-endian")
    client.push({name: array.astype("f8") for name, array in SMALL.items()}, name="cast", cast=True)
    new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["head.weight"], weight)


class FakeTensor:
    """As much of a torch tensor as is used, on another device and with a gradient."""

    def __init__(self, array: np.ndarray[Any, Any], kind: str, steps: tuple[str, ...] = ()) -> None:
        self._array, self._kind, self._steps = array, kind, steps
        self.shape, self.dtype = array.shape, _TorchType(kind)

    def _after(self, step: str) -> FakeTensor:
        return FakeTensor(self._array, self._kind, (*self._steps, step))

    def detach(self) -> FakeTensor:
        return self._after("detach")

    def cpu(self) -> FakeTensor:
        return self._after("cpu")

    def resolve_neg(self) -> FakeTensor:
        return self._after("resolve_neg")

    def float(self) -> FakeTensor:
        return FakeTensor(self._array.astype(np.float32), "torch.float32", self._steps)

    def contiguous(self) -> FakeTensor:
        return self._after("contiguous")

    def view(self, kind: str) -> FakeTensor:
        assert (self._kind, kind) == ("torch.bfloat16", "int16")
        return FakeTensor(self._array.view(np.int16), "torch.int16", self._steps)

    def numpy(self) -> np.ndarray[Any, Any]:
        assert self._steps[:2] == ("detach", "cpu"), "as torch demands"
        assert self._kind != "torch.bfloat16", "as torch refuses"
        return self._array


class _TorchType:
    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name


@pytest.mark.parametrize("local", [True, False])
def test_torch_tensors(new_job: MakeJob, new_client: MakeClient, monkeypatch: pytest.MonkeyPatch, local: bool) -> None:
    client = new_client(new_job(expected=4 if not local else 2), local=local)
    client.pull()
    client.push({name: FakeTensor(array, "torch.float32") for name, array in SMALL.items()}, name="f32")
    torch = ModuleType("torch")
    vars(torch)["int16"] = "int16"
    monkeypatch.setitem(sys.modules, "torch", torch)
    halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in SMALL.items()}
    bf16 = {name: FakeTensor(array, "torch.bfloat16") for name, array in halves.items()}
    client.push(bf16, encoding="f32", name="bf16-as-f32")
    if not local:
        client.push(bf16, name="bf16")
        client.push(bf16, encoding="f16", cast=True, name="bf16-as-f16")
    new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["head.weight"], SMALL["head.weight"])


def test_torch_is_not_imported() -> None:
    # In a process of its own: other packages of the tests may import it.
    code = "import sys, tributary; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_of_arrays(process: Process, server: Server, new_client: MakeClient) -> None:
    arrays = {"w": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.float16(2)}
    server.apply(Job("arrays", "fedavg", arrays, expected=1))
    model = new_client("arrays").pull()
    assert model["w"].dtype == np.float32
    np.testing.assert_array_equal(model["w"], arrays["w"])
    assert model["b"] == 2
    with pytest.raises(errors.LayoutMismatch, match="'n': expected floating-point numbers, got int64; leave counters"):
        server.apply(Job("counters", "fedavg", {"n": np.zeros(3, np.int64)}, expected=1))
    unknown: Any = 7
    with pytest.raises(errors.InvalidManifest, match="named by its path or digest, and this is int"):
        server.apply(Job("number", "fedavg", unknown, expected=1))


def test_a_job_made_anew_is_not_waited_for(
    process: Process, new_job: MakeJob, new_client: MakeClient, server: Server, tmp_path: Path
) -> None:
    """Its versions begin at 1, and the client knows a greater one of the job before."""
    job = new_job()
    client = new_client(job)
    for version in (1, 2, 3):
        client.push(SMALL, round=version)
        assert client.pull(after=version, wait=60) is not None
    server.delete("job", job)
    with pytest.raises(errors.UnknownJob):
        new_client(job, patience=0).pull()
    make_job(process.address, tmp_path, name=job)
    anew = client.pull(after=4, wait=60)
    assert anew is not None
    assert (anew.version, client.version) == (1, 1)
    assert client.push(anew).round == 1
    following = client.pull(after=1, wait=60)
    assert following is not None
    assert following.version == 2
