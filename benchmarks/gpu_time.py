"""What a GPU did while a profiler ran: by kind of kernel, by kernel, and when it did nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

KINDS = {
    "optimiser": ("kOptimizer", "optimizer", "multi_tensor"),
    "attention": ("flash", "fmha", "attention", "sdpa", "_attend"),
    "matmul": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "gemv", "splitK"),
    "fused elementwise": ("triton",),
    "copies": ("Memcpy", "Memset", "copy"),
    "elementwise": ("elementwise", "reduce", "vectorized", "norm", "softmax"),
}
"""What a kernel is for, by a part of its name; the first that fits."""


def gpu_time(profiler: Any) -> dict[str, Any]:
    """Share of the GPU's time by kind of kernel, those that take most of it, and its waits.

    profiler: a torch.profiler.profile that has stopped.
    """
    spans = [
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events()
        if "CUDA" in str(event.device_type)
    ]
    spent: Counter[str] = Counter()
    for start, end, name in spans:
        spent[name] += end - start
    total = sum(spent.values()) or 1.0
    shares: Counter[str] = Counter()
    for name, microseconds in spent.items():
        fits = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
        shares[next(fits, "other")] += microseconds / total
    top = {name[:90]: round(each / total, 4) for name, each in spent.most_common(12)}
    return {
        "gpu_seconds": round(total / 1e6, 3),
        "shares": {kind: round(share, 4) for kind, share in shares.most_common()},
        "top": top,
        "waits": waits(spans),
    }


def waits(spans: Iterable[tuple[float, float, str]]) -> dict[str, Any]:
    """When the GPU had nothing to do between the first kernel and the last.

    spans: of every kernel and copy, microseconds of start and end, and its name.
    """
    ordered = sorted(spans)
    if not ordered:
        return {}
    gaps: list[tuple[float, str, str]] = []
    end, after = ordered[0][1], ordered[0][2]
    for start, stop, name in ordered:
        if start > end:
            gaps.append((start - end, after, name))
        if stop > end:
            end, after = stop, name
    bounds = {"under 10 us": (0, 10), "to 1 ms": (10, 1e3), "longer": (1e3, float("inf"))}
    return {
        "seconds": {
            kind: round(sum(gap for gap, *_ in gaps if low <= gap < high) / 1e6, 4)
            for kind, (low, high) in bounds.items()
        },
        "longest": [
            {"ms": round(gap / 1e3, 2), "after": after[:60], "before": before[:60]}
            for gap, after, before in sorted(gaps, reverse=True)[:12]
        ],
    }
