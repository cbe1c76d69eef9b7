from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import gpu_time

    return gpu_time


def test_waits_are_the_gaps_that_no_kernel_covers(module: ModuleType) -> None:
    """Microseconds: b lies within a, c begins 5 after that, d 2,000 after c."""
    spans = [(100.0, 150.0, "a"), (110.0, 120.0, "b"), (155.0, 160.0, "c"), (2160.0, 2170.0, "d")]
    found = module.waits(reversed(spans))
    assert found["seconds"] == {"under 10 us": 0.0, "to 1 ms": 0.0, "longer": 0.002}
    assert found["longest"] == [
        {"ms": 2.0, "after": "c", "before": "d"},
        {"ms": 0.01, "after": "a", "before": "c"},
    ]
    assert module.waits([]) == {}


def test_shares_are_of_the_gpu_s_time(module: ModuleType) -> None:
    def event(start: float, end: float, name: str, device: str = "DeviceType.CUDA") -> object:
        times = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(time_range=times, name=name, device_type=device)

    events = [
        event(0, 3e6, "nvjet_tst"),
        event(3e6, 4e6, "flash_fwd_kernel"),
        event(0, 9e6, "aten::mm", "DeviceType.CPU"),
    ]
    found = module.gpu_time(SimpleNamespace(events=lambda: events))
    assert found["gpu_seconds"] == 4.0
    assert found["shares"] == {"matmul": 0.75, "attention": 0.25}
    assert found["waits"]["seconds"] == {"under 10 us": 0.0, "to 1 ms": 0.0, "longer": 0.0}
