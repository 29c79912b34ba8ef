"""The client for asyncio does the same as the other one, many at a time."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import SMALL, MakeJob, make_job
from process import Process
from proxy import Plan, Proxy
from tributary import AsyncClient, Server, errors

BIG = {"a": np.arange(1 << 20, dtype=np.float32), "b": np.ones((16, 16), np.float32)}


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main, debug=True)


def test_twenty_clients_at_once(process: Process, new_job: MakeJob, server: Server) -> None:
    job = new_job(BIG, expected=20)

    async def participate(number: int) -> None:
        async with AsyncClient(process.address, job, f"client-{number}") as client:
            model = await client.pull()
            update = {name: array * (number + 1) for name, array in model.items()}
            await client.push(update, weight=number + 1)
            new = await client.pull(after=model.version, wait=60)
            assert new is not None
            weights = np.arange(1, 21)
            np.testing.assert_allclose(new["a"], BIG["a"] * np.average(weights, weights=weights), rtol=1e-6)

    async def main() -> None:
        await asyncio.gather(*(participate(number) for number in range(20)))

    run(main())
    assert server.round(job, 1).contributors == 20


def test_one_client_with_many_names(process: Process, new_job: MakeJob, server: Server) -> None:
    job = new_job(BIG, expected=21)

    async def main() -> None:
        async with AsyncClient(process.address, job) as client:
            await client.pull()
            await asyncio.gather(*(client.push(BIG, name=f"client-{number}") for number in range(20)))

    run(main())
    assert server.job(job).accepted == 20


def test_events(process: Process, new_job: MakeJob) -> None:
    job = new_job(expected=9)

    async def main() -> None:
        async with AsyncClient(process.address, job, "client") as client, client.events() as events:
            await client.push(SMALL, round=1)
            async for event in events:
                assert (event.kind, event.job) == ("update.accepted", job)
                break
        assert [event async for event in events] == []

    run(main())


def test_a_file_and_an_early_answer(process: Process, new_job: MakeJob, tmp_path: Path) -> None:
    job = new_job(BIG, expected=9)
    save_file(BIG, tmp_path / "update")

    async def main() -> None:
        async with AsyncClient(process.address, job, "client") as client:
            with pytest.raises(errors.LayoutMismatch) as caught:
                await client.push({"other": BIG["a"]}, round=1)
            assert caught.value.status == 422
            with pytest.raises(errors.NoRound):
                await client.push(BIG)
            assert not (await client.push(tmp_path / "update", round=1)).repeated

    run(main())


def test_cut_and_lost_answers(process: Process, new_job: MakeJob, server: Server) -> None:
    job = new_job(BIG, expected=9)

    async def main() -> None:
        with Proxy(process.address, Plan(cut_after=100_000), Plan(swallow=True)) as proxy:
            async with AsyncClient(proxy.address, job, "client") as client:
                assert (await client.push(BIG, round=1)).repeated

    run(main())
    assert server.job(job).accepted == 1


def test_killed_while_a_model_is_waited_for(own_process: Process, tmp_path: Path) -> None:
    job = make_job(own_process.address, tmp_path)

    async def main() -> None:
        async with AsyncClient(own_process.address, job, "client") as client:
            waiting = asyncio.create_task(client.pull(after=1, wait=120))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(own_process.kill)
            await asyncio.to_thread(own_process.start)
            await client.push(SMALL, round=1)
            model = await waiting
            assert model is not None
            assert model.version == 2

    run(main())


def test_a_cancelled_push_counts_for_nothing(process: Process, new_job: MakeJob, server: Server) -> None:
    job = new_job(BIG, expected=9)
    plan = Plan(stall_after=1 << 20)

    async def main() -> None:
        with Proxy(process.address, plan) as proxy:
            async with AsyncClient(proxy.address, job, "client") as client:
                push = asyncio.create_task(client.push(BIG, round=1))
                assert await asyncio.to_thread(plan.stalled.wait, 60)
                push.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await push
                assert server.job(job).accepted == 0
                # The client itself goes on.
                assert (await client.push(BIG, round=1)).contributors == 1
        plan.go.set()

    run(main())


def test_nobody_there_and_pickles() -> None:
    async def main() -> None:
        client = AsyncClient("http://127.0.0.1:1", "job", "client", patience=0)
        again = pickle.loads(pickle.dumps(client))
        assert repr(again) == repr(client) == "AsyncClient('http://127.0.0.1:1', job='job', name='client')"
        with pytest.raises(errors.ServerUnreachable, match="connection refused"):
            await again.pull()
        await again.close()
        with pytest.raises(errors.Closed):
            await again.pull()

    run(main())
