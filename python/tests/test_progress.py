"""Bars, when asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import MakeClient, MakeJob
from tributary import errors

MODEL = {"a": np.zeros(1 << 20, np.float32)}


def test_bars_for_both_directions(
    new_job: MakeJob, new_client: MakeClient, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job = new_job(MODEL, expected=9)
    client = new_client(job, progress=True)
    client.pull()
    shown = capsys.readouterr().err
    assert f"pull {job}: 100%" in shown
    assert "4.00M/4.00M" in shown
    client.push(MODEL)
    assert f"push {job}: 100%" in capsys.readouterr().err
    save_file(MODEL, tmp_path / "update")
    client.push(tmp_path / "update", name="other")
    assert f"push {job}: 100%" in capsys.readouterr().err


def test_no_bars_by_default(new_job: MakeJob, new_client: MakeClient, capsys: pytest.CaptureFixture[str]) -> None:
    new_client(new_job(MODEL)).push(MODEL, round=1)
    assert capsys.readouterr().err == ""


def test_tqdm_is_missing(new_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(errors.MissingPackage, match=r"pip install tqdm") as caught:
        new_client("job", progress=True)
    assert isinstance(caught.value, ImportError)


def test_ml_dtypes_is_missing(new_job: MakeJob, new_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(errors.MissingPackage, match=r"pip install ml_dtypes"):
        new_client(new_job(MODEL)).push(MODEL, round=1, encoding="bf16")
