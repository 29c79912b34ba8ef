"""What the README shows runs, and names errors that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import make_job
from process import Process
from tributary import Server, errors

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_ten_lines(process: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(code) == 1
    job = make_job(process.address, tmp_path, rounds=20)
    program = code[0].replace("http://127.0.0.1:7878", process.address).replace('"digits"', f'"{job}"')
    exec(compile(program, "README.md", "exec"), {})
    assert "round 20: 1 clients so far" in capsys.readouterr().out
    assert Server(process.address).job(job).phase == "completed"


def test_the_errors_exist() -> None:
    table = README[README.index("## Errors") : README.index("## When")]
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", table))
    assert len(named) > 15
    for name in named - {"None"}:
        assert issubclass(getattr(errors, name), errors.TributaryError)
