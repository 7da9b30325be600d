"""`mirage-nb doctor`."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from tiny_wan import write_wan

from mirage_nb.models.full_size import GIB

doctor = import_module("mirage_nb.cli.doctor")  # by its name the package has the command


def test_doctor_examines_everything(tmp_path):
    write_wan(tmp_path / "wan")
    findings = {finding.name: finding for finding in doctor.examine(str(tmp_path / "wan"))}
    assert {"software", "GPU", "main memory", "bundled model", "open3d", "wan2.2 weights"} < set(findings)
    assert findings["wan2.2 weights"].ok and findings["bundled model"].ok and findings["software"].ok
    assert torch.__version__ in findings["software"].says


def test_doctor_tells_what_is_missing_and_how_big_it_is(monkeypatch):
    monkeypatch.setattr(doctor, "try_to_load_from_cache", lambda name, file: None)
    weights = doctor._wan_weights(None)
    assert weights.ok is None and "hf download" in weights.do
    for part, size in (("transformer", 9.3), ("text_encoder", 10.6), ("vae", 2.6)):
        assert f"{part} {size} GiB" in weights.says, "from the shapes, 2 bytes each, 4 for the VAE"
    assert "0.1 GiB" in doctor._depth().do


@pytest.mark.parametrize(
    "gpu, main, ok", [(80, 128, True), (12, 64, True), (6, 64, None), (80, 16, None), (0, 64, None)]
)
def test_doctor_plans_the_memory(gpu, main, ok):
    finding = doctor._plan(gpu * GIB, main * GIB)
    assert finding.ok is ok and ("no GPU" in finding.do) == (gpu == 0)


def test_doctor_names_the_packages_that_open3d_lacks(monkeypatch):
    failed = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nOSError: libGL.so.1: cannot open")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(doctor.ctypes.util, "find_library", lambda name: None if name == "GL" else f"lib{name}.so")
    finding = doctor._open3d()
    assert finding.ok is False and finding.do == "apt-get install libgl1" and "libGL.so.1" in finding.says


def test_doctor_is_wrong_only_about_what_is_wrong(capsys):
    good, later, bad = (
        doctor.Finding("a", True, "x"),
        doctor.Finding("b", None, "y"),
        doctor.Finding("c", False, "z", "do"),
    )
    assert doctor.print_findings([good, later]) and not doctor.print_findings([good, bad])
    assert "no  c: z" in capsys.readouterr().out
