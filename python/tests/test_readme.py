"""What the README shows runs, and names errors that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import make_job
from process import FUNCTIONS, ROOT, Process
from tributary import Server, errors
from tributary._core.layout import Layout

README = (Path(__file__).parents[1] / "README.md").read_text()


CODE = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_ten_lines(process: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job(process.address, tmp_path, rounds=20)
    program = CODE[0].replace("http://127.0.0.1:7878", process.address).replace('"digits"', f'"{job}"')
    exec(compile(program, "README.md", "exec"), {})
    assert "round 20: 1 clients so far" in capsys.readouterr().out
    assert Server(process.address).job(job).phase == "completed"


def test_the_torch_lines(process: Process) -> None:
    pytest.importorskip("torch")
    module = str(FUNCTIONS / "fedavg.wasm")
    program = CODE[1].replace("http://127.0.0.1:7878", process.address).replace("target/functions/fedavg.wasm", module)
    exec(compile(program, "README.md", "exec"), {})
    assert Server(process.address).job("net").phase == "completed"


@pytest.mark.parametrize("order", ["C", "F", "reversed", "single"])
def test_the_recipes_for_encodings(order: str) -> None:
    text = (ROOT / "docs/http.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    recipes: dict[str, Any] = {}
    exec(compile(program, "http.md", "exec"), recipes)
    values = np.arange(15, dtype=np.float32).reshape(3, 5)
    arrays = {"C": values, "F": np.asfortranarray(values), "reversed": values[::-1, ::-1], "single": np.float32(3)}
    array = arrays[order]
    for recipe in ("f32", "f16", "bf16", "i8", "sparse"):
        file = np.frombuffer(recipes[recipe]({"w": array}), np.uint8)
        sent = Layout.parse(file.data).views(file)
        if recipe == "sparse":
            dense = np.zeros(np.size(array))
            dense[sent["w:indices"]] = sent["w:values"]
            decoded = dense.reshape(np.shape(array))
        else:
            decoded = sent["w"].astype("f4") * sent.get("w:scale", 1)
            assert decoded.shape in (np.shape(array), (1,))
        np.testing.assert_allclose(decoded.reshape(np.shape(array)), array, atol=0.1)


def test_the_errors_exist() -> None:
    table = README[README.index("## Errors") : README.index("## When")]
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", table))
    assert len(named) > 15
    for name in named - {"None"}:
        assert issubclass(getattr(errors, name), errors.TributaryError)
