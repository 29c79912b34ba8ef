"""The local path: updates are written into the server's shared memory, and no failure leaves a slot behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import SMALL, MakeClient, MakeJob, make_job
from process import Process, eventually
from proxy import Plan, Proxy
from tributary import AsyncClient, Client, Server, errors
from tributary._core.connection import Moved
from tributary._core.slot import Lease, Values

BIG = {"b": np.ones((16, 16), np.float32), "a": np.arange(1 << 20, dtype=np.float32)}


def free_slots(server: Server, job: str) -> int:
    arena = server.job(job).arena
    assert arena is not None
    return int(arena["free"])


def segment(server: Server, job: str) -> Path:
    arena = server.job(job).arena
    assert arena is not None
    return Path("/dev/shm", arena["segment"])


def test_both_ways_give_the_same_model(new_job: MakeJob, new_client: MakeClient) -> None:
    rng = np.random.default_rng(3)
    updates = [{name: rng.normal(size=array.shape).astype("f4") for name, array in BIG.items()} for _ in range(3)]
    models = []
    for local in (True, False):
        client = new_client(new_job(BIG, expected=3, config={"accumulate": "exact"}, determinism="exact"), local=local)
        client.pull()
        for number, update in enumerate(updates):
            done = client.push(update, weight=number + 1, name=f"client-{number}")
            assert (done.local, done.contributors) == (local, number + 1)
        model = client.pull(after=1, wait=60)
        assert model is not None
        models.append(model)
    for name in BIG:
        np.testing.assert_array_equal(models[0][name], models[1][name])


def test_arrays_of_all_kinds(new_job: MakeJob, new_client: MakeClient) -> None:
    client = new_client(new_job(expected=4), local=True)
    client.pull()
    weight = SMALL["head.weight"]
    client.push({**SMALL, "head.weight": np.ascontiguousarray(weight.T).T}, name="not-contiguous")
    client.push({name: array.astype(">f4") for name, array in SMALL.items()}, name="big-endian")
    client.push({name: array.astype("f8") for name, array in reversed(SMALL.items())}, name="cast", cast=True)
    client.push({**SMALL, "step": np.float32(4)}, name="scalar")
    new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["head.weight"], weight)
    assert new["step"] == 1


def test_auto_takes_it_when_it_can(new_job: MakeJob, new_client: MakeClient, tmp_path: Path) -> None:
    client = new_client(new_job(expected=9))
    assert not client.push(SMALL, round=1, name="before-any-pull").local
    client.pull()
    assert client.push(SMALL, name="arrays").local
    assert not client.push(SMALL, name="f16", encoding="f16").local
    save_file(dict(SMALL), tmp_path / "update")
    assert not client.push(tmp_path / "update", name="file").local
    assert not new_client(client.job, "refuses", local=False).push(SMALL, round=1).local


def test_true_says_why_it_cannot(new_job: MakeJob, new_client: MakeClient, tmp_path: Path) -> None:
    client = new_client(new_job(), local=True)
    with pytest.raises(errors.LocalPathUnavailable, match=r"call pull\(\) first"):
        client.push(SMALL, round=1)
    client.pull()
    with pytest.raises(errors.LocalPathUnavailable, match="only arrays in f32"):
        client.push(SMALL, encoding="f16")
    refusing = new_client(new_job(local="refuse"), local=True)
    refusing.pull()
    with pytest.raises(errors.LocalPathUnavailable, match=r"spec\.ingest\.local: refuse"):
        refusing.push(SMALL)
    auto = new_client(refusing.job)
    auto.pull()
    assert not auto.push(SMALL).local


def test_another_users_server(new_job: MakeJob, new_client: MakeClient, server: Server) -> None:
    job = new_job(expected=9)
    demanding, auto = new_client(job, "demanding", local=True), new_client(job, "auto")
    demanding.pull()
    auto.pull()
    free = free_slots(server, job)
    path = segment(server, job)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    else:
        path.chmod(0)
    try:
        with pytest.raises(errors.LocalPathUnavailable, match="run both as the same user") as caught:
            demanding.push(SMALL)
        assert str(path) in str(caught.value)
        assert not auto.push(SMALL).local
    finally:
        if root:
            os.seteuid(0)
        else:
            path.chmod(0o600)
    eventually(lambda: free_slots(server, job) >= free - 1, "the slot that could not be mapped is given back")


def test_refusals_are_those_of_a_body(new_job: MakeJob, new_client: MakeClient, server: Server) -> None:
    job = new_job(expected=2)
    client = new_client(job, local=True)
    client.pull()
    free = free_slots(server, job)
    with pytest.raises(errors.NonFinite, match=r"head\.bias"):
        client.push({**SMALL, "head.bias": np.array([0, np.inf, 0], np.float32)})
    with pytest.raises(errors.WrongRound):
        client.push(SMALL, round=7)
    assert free_slots(server, job) == free
    assert not client.push(SMALL).repeated
    assert client.push(SMALL).repeated
    with pytest.raises(errors.OtherBytes):
        client.push({**SMALL, "step": np.float32(1)})


@pytest.mark.parametrize("cut", [10, 200, 400])
def test_cut_at_any_byte(process: Process, new_job: MakeJob, new_client: MakeClient, server: Server, cut: int) -> None:
    """Within the request for the slot, behind it, and within the request that commits it."""
    job = new_job(BIG, expected=9)
    layout = new_client(job)
    layout.pull()
    free = free_slots(server, job)
    with Proxy(process.address, Plan(cut_after=cut), Plan(cut_answer_after=cut), Plan(swallow=True)) as proxy:
        client = new_client(job, "cut", proxy.address, local=True)
        client._core.version, client._core._layout = 1, layout._core._layout
        done = client.push(BIG, weight=2)
    assert (done.local, done.contributors) == (True, 1)
    eventually(lambda: free_slots(server, job) >= free - 2, "leases end with their connections")
    assert server.job(job).accepted == 1


def test_killed_while_a_slot_is_written(own_process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(own_process.address, tmp_path, BIG)
    write, kills = Lease.write, [own_process]

    async def interrupted(lease: Lease, values: Values, moved: Moved) -> None:
        if kills:
            kills.pop()
            own_process.kill()
            own_process.start()
        # What is written now goes to a segment that nobody reads any more.
        await write(lease, values, moved)

    monkeypatch.setattr(Lease, "write", interrupted)
    with Client(own_process.address, job, "client", local=True) as client:
        client.pull()
        done = client.push({name: array + 1 for name, array in BIG.items()})
        assert (done.local, done.repeated, done.contributors) == (True, False, 1)
        new = client.pull(after=1, wait=60)
    assert new is not None
    np.testing.assert_array_equal(new["a"], BIG["a"] + 1)


def test_a_program_that_ends_leaves_the_segment(
    process: Process, new_job: MakeJob, new_client: MakeClient, server: Server
) -> None:
    job = new_job(expected=9)
    program = (
        "import sys, tributary\n"
        "client = tributary.Client(sys.argv[1], sys.argv[2], 'child', local=True)\n"
        "assert client.push(client.pull()).local\n"
    )
    subprocess.run([sys.executable, "-c", program, process.address, job], check=True)
    assert segment(server, job).exists()
    client = new_client(job, "parent", local=True)
    client.pull()
    assert client.push(SMALL).contributors == 2


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_holds_no_lease(
    new_job: MakeJob, new_client: MakeClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child lives on; the parent's slot is taken back all the same when the parent gives up."""
    job = new_job(expected=9)
    client = new_client(job, local=True)
    client.pull()
    free = free_slots(server, job)
    read, write = os.pipe()
    children = []

    async def forked(_lease: Lease, _values: Values, _moved: Moved) -> None:
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        children.append(child)
        raise KeyboardInterrupt

    monkeypatch.setattr(Lease, "write", forked)
    with pytest.raises(KeyboardInterrupt):
        client.push(SMALL)
    eventually(lambda: free_slots(server, job) == free, "the slot is taken back")
    os.close(write)
    os.close(read)
    assert os.waitpid(children[0], 0)[1] == 0


def test_nothing_stays_mapped(new_job: MakeJob, new_client: MakeClient, server: Server) -> None:
    job = new_job(expected=9)
    client = new_client(job, local=True)
    client.pull()
    client.push(SMALL)
    name = segment(server, job).name
    assert name in Path("/proc/self/maps").read_text()
    client.close()
    assert name not in Path("/proc/self/maps").read_text()


def test_many_tasks(process: Process, new_job: MakeJob, server: Server) -> None:
    """More at once than slots are lent: some wait, and some send bodies."""
    job = new_job(BIG, expected=24, slots=12)
    ways: list[Any] = []

    async def main() -> None:
        async with AsyncClient(process.address, job) as client:
            model = await client.pull()
            ways.extend(await asyncio.gather(*(client.push(model, name=f"client-{n}") for n in range(24))))
            assert await client.pull(after=1, wait=60) is not None

    asyncio.run(main())
    assert any(done.local for done in ways)
    assert server.round(job, 1).contributors == 24


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"w": 3}, {"w": 4}),
        ({"a": 2, "b": 4}, {"b": 2, "a": 4}),
        ({"a": 2, "b": 4}, {"a": 3, "b": 3}),
        ({"w": 4}, {"v": 4}),
    ],
    ids=["fewer", "swapped", "cut-elsewhere", "renamed"],
)
def test_a_layout_of_before_is_refused(
    process: Process,
    tmp_path: Path,
    new_client: MakeClient,
    server: Server,
    before: dict[str, int],
    now: dict[str, int],
) -> None:
    """The job is made anew with another model. Its first round has the number of the first job's."""

    def model(sizes: dict[str, int], value: float) -> dict[str, np.ndarray[Any, Any]]:
        return {name: np.full(size, value, np.float32) for name, size in sizes.items()}

    job = make_job(process.address, tmp_path, model(before, 0), expected=1)
    client = new_client(job, local=True)
    client.pull()
    server.delete("job", job)
    make_job(process.address, tmp_path, model(now, 0), name=job, expected=1)
    free = free_slots(server, job)
    with pytest.raises(errors.LayoutMismatch):
        client.push(model(before, 1))
    eventually(lambda: free_slots(server, job) == free, "no slot is out")
    client.pull()
    assert client.push(model(now, 1)).local
    new = client.pull(after=1, wait=60)
    assert new is not None
    assert all((array == 1).all() for array in new.values())
