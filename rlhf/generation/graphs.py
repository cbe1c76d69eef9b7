"""How the slot engine keeps a GPU busy: its step as a CUDA graph, and looks that wait little."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor

# A capture takes memory of its own, and nothing is given back during one: with less of the device's
# memory free, what torch holds for later is given back before.
ROOM = 1 / 8


def captured(
    try_out: Callable[[], None], step: Callable[[], None], device: torch.device
) -> Callable[[], None]:
    """The step as a CUDA graph, which costs the host nothing.

    It is captured at the first call: the device still reads prompts meanwhile.

    Args:
        try_out: done once before, outside the graph: whatever in the step compiles or takes memory
            for good. It changes nothing that the step does not write again.
        step: of the same addresses at every call.
        device: a CUDA one.
    """
    graph = torch.cuda.CUDAGraph()
    ready = False

    def advance() -> None:
        nonlocal ready
        if not ready:
            _capture(graph, try_out, step, device)
            ready = True
        graph.replay()

    return advance


def _capture(
    graph: torch.cuda.CUDAGraph,
    try_out: Callable[[], None],
    step: Callable[[], None],
    device: torch.device,
) -> None:
    """As `torch.cuda.graph` does it, which always waits for the device and empties its cache."""
    aside: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    collects = gc.isenabled()
    with torch.cuda.stream(aside):
        try_out()
        free, whole = torch.cuda.mem_get_info(device)
        if free < ROOM * whole:
            torch.cuda.empty_cache()
        gc.disable()  # a graph that is freed during a capture ends it
        try:
            graph.capture_begin()
            try:
                step()
            finally:
                graph.capture_end()
        finally:
            if collects:
                gc.enable()
    torch.cuda.current_stream(device).wait_stream(aside)


def look(values: Tensor) -> Callable[[], list[int]]:
    """What they are at this point of the device's work, to be called when it has come so far."""
    if values.device.type != "cuda":
        return values.clone().tolist
    seen = torch.empty_like(values, device="cpu", pin_memory=True)
    seen.copy_(values, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record(torch.cuda.current_stream(values.device))

    def read() -> list[int]:
        there.synchronize()
        found: list[int] = seen.tolist()
        return found

    return read
