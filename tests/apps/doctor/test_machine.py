from __future__ import annotations

import pytest

from rlhf.apps.doctor import machine
from rlhf.apps.doctor.machine import Accelerators


@pytest.mark.parametrize(
    ("found", "level", "said"),
    [
        (("550.54", "13.0", ("H100", "H100", "L4")), "ok", "2 x H100, 1 x L4; driver 550.54, CUDA"),
        ((None, None, ()), "warning", "install NVIDIA's driver"),
        (("", "13.0", ()), "warning", "nvidia-smi fails; restart the machine"),
        (("550.54", None, ()), "warning", "is built for CPUs; install torch's CUDA build"),
        (("450.80", "13.0", ()), "warning", "torch's CUDA 13.0 finds no GPU; renew the driver"),
    ],
)
def test_what_there_is_to_compute_with(found, level, said):
    finding = machine.gpu(Accelerators(*found))
    assert finding.level == level and said in finding.message


def test_without_bfloat16():
    assert machine.bfloat16(True).level == "ok"
    assert "runtime.precision: float16" in machine.bfloat16(False).message


def test_bitsandbytes_is_tried_out(monkeypatch):
    functional = pytest.importorskip("bitsandbytes.functional")
    assert machine.bitsandbytes().level == "ok"
    monkeypatch.setattr(functional, "dequantize_4bit", lambda packed, state: packed.float())
    monkeypatch.setattr(functional, "quantize_4bit", lambda x, **_: (x * 2, None))
    broken = machine.bitsandbytes()
    assert broken.level == "fault" and "4 bits give numbers that are 1 off" in broken.message


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.compilers(on_gpu=False).level == "ok"
    assert "ppo.engine: plain" in machine.compilers(on_gpu=True).message


def test_a_deepspeed_that_cannot_be_imported(monkeypatch, tmp_path):
    (tmp_path / "deepspeed.py").write_text("raise RuntimeError('no\\nCUDA_HOME')")
    monkeypatch.setattr(machine, "_version", lambda package: "0.19")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = machine.deepspeed()
    assert broken.level == "fault"
    assert broken.message.startswith("0.19, but its import fails: CUDA_HOME; mend that")
