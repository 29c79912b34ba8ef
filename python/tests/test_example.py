"""The example reaches what it promises, on the real server."""

from __future__ import annotations

import sys

import pytest

from process import FUNCTIONS, ROOT, Process
from tributary import Server

sys.path.insert(0, str(ROOT / "examples/python_digits"))


def test_digits(process: Process, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    import train

    reached = train.run(process.address, rounds=20, functions=FUNCTIONS)
    assert reached > 0.9
    assert "round  20   accuracy" in capsys.readouterr().out
    status = server.job(train.JOB)
    assert (status.phase, status.version) == ("completed", 21)
    rounds = server.rounds(train.JOB)
    assert {status.contributors for status in rounds if status.phase == "completed"} == {20}
