"""What scaling.py makes of its measurements, without making any."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import scaling_cases

    return scaling_cases


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import scaling_worker

    return scaling_worker


def test_every_case_is_beside_one_of_the_same_work_on_fewer_gpus(cases: ModuleType) -> None:
    for name, case in cases.CASES.items():
        if case.alone:
            other = cases.CASES[case.alone]
            assert other.gpus < case.gpus, name
            for field in ("work", "method", "model", "layers", "each", "compiled"):
                assert getattr(other, field) == getattr(case, field), (name, field)


def test_compared_by_hand(cases: ModuleType) -> None:
    found = {
        "sft_lora_1": {"rate": 100.0, "losses": [4.0, 2.0], "earlier": {"losses": [4.0, 1.9]}},
        "sft_lora_4_zero2": {"rate": 360.0, "losses": [4.0, 2.02]},
        "ppo_fast_1": {"rate": 7.0, "losses": [1.0], "phases": {"update": 3.0}},
        "ppo_fast_2": {"rate": 12.6, "losses": [9.0], "phases": {"update": 4.0}},
        "sft_full_2_zero3": {"rate": 10.0, "losses": [1.0]},
        "sft_full_4_zero3": {"rate": 19.0, "losses": [1.0]},
        "sft_cut_2_zero3": {"failed": "exit code 1"},
    }
    rows = cases.compared(found)
    assert rows.keys() == {"sft_lora_4_zero2", "ppo_fast_2", "sft_full_4_zero3"}
    assert rows["sft_lora_4_zero2"]["efficiency"] == 0.9
    assert rows["sft_lora_4_zero2"]["loss_off"] == pytest.approx(0.01)
    assert rows["sft_lora_4_zero2"]["loss_off_again"] == pytest.approx(0.05)
    assert rows["sft_full_4_zero3"]["efficiency"] == 0.95
    # Every GPU has as much to do as the one had: other answers, and the same time at best.
    assert rows["ppo_fast_2"] == {
        "beside": "ppo_fast_1",
        "efficiency": 0.9,
        "phase_efficiency": {"update": 0.75},
    }


def test_where_a_step_goes_by_hand(worker: ModuleType) -> None:
    """In microseconds: products from 0 to 30 and 60 to 70, sending from 20 to 50."""

    def event(start: int, end: int, name: str, device: str = "DeviceType.CUDA") -> SimpleNamespace:
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(time_range=span, name=name, device_type=device)

    events = [
        event(0, 30_000, "nvjet_gemm"),
        event(60_000, 70_000, "nvjet_gemm"),
        event(20_000, 50_000, "ncclDevKernel_AllGather"),
        event(0, 90_000, "cudaLaunchKernel", "DeviceType.CPU"),
    ]
    assert worker.where(events, 0.1) == {
        "step": 0.1,
        "computing": 0.04,
        "communicating alone": 0.02,
        "waiting": 0.04,
    }
