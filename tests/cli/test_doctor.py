"""`mirage-nb doctor`."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import psutil
import pytest
import torch
from tiny_wan import write_wan
from typer.testing import CliRunner

from mirage_nb.cli import app, doctor
from mirage_nb.models.full_size import GIB


def test_doctor_examines_everything(tmp_path):
    write_wan(tmp_path / "wan")
    findings = {finding.name: finding for finding in doctor.examine(str(tmp_path / "wan"))}
    assert {"software", "bundled model", "open3d", "wan2.2 weights", "wan2.2 here"} < set(findings)
    assert findings["wan2.2 weights"].ok and findings["bundled model"].ok and findings["software"].ok
    assert torch.__version__ in findings["software"].says


@pytest.mark.parametrize("here", [True, False])
def test_doctor_tells_what_is_missing_and_how_to_get_it(here, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "file" if here else None)
    findings = {finding.name: finding for finding in doctor.examine()}
    for name in ("wan2.2 weights", "depth for photos"):
        assert findings[name].ok is (True if here else None) and ("hf download" in findings[name].do) != here


@pytest.mark.parametrize(
    "gpu, main, ok, words",
    [
        (80, 128, True, "to('cuda')"), (24, 64, True, "enable_model_cpu_offload"), (12, 64, True, "sequential"),
        (6, 64, None, "it needs a GPU"), (0, 64, None, "it needs a GPU"), (80, 16, None, "quantise"),
    ],
)  # fmt: skip
def test_doctor_plans_the_memory(gpu, main, ok, words):
    finding = doctor._full_size(gpu * GIB, "cuda", main * GIB)
    assert finding.ok is ok and words in finding.do


def test_doctor_names_an_apple_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=96 * GIB))
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["GPU"].ok and "Apple" in findings["GPU"].says and findings["wan2.2 here"].do == "pipe.to('mps')"


def test_doctor_says_what_to_do_where_open3d_does_not_load(monkeypatch):
    failed = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nOSError: libGL.so.1: cannot open")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    finding = doctor._open3d()
    assert finding.ok is False and "apt-get install" in finding.do and "libGL.so.1" in finding.says


def test_doctor_fails_only_for_what_is_wrong(monkeypatch):
    good, later, bad = (doctor.Finding(*values) for values in (("a", True, "x"), ("b", None, "y"), ("c", False, "z")))
    for findings, code in (([good, later], 0), ([good, bad], 1)):
        monkeypatch.setattr(doctor, "examine", lambda folder, findings=findings: findings)
        done = CliRunner().invoke(app, ["doctor"])
        assert done.exit_code == code and f"{findings[1].name}: {findings[1].says}" in done.output
