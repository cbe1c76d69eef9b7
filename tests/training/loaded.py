"""Models as the stages load them, in one process or several: what is read, and what it takes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open
from transformers import modeling_utils

from rlhf.models.from_main import from_main
from rlhf.models.load import load_causal_lm, load_reward_model
from rlhf.models.spread import own_part, spread
from rlhf.runtime.distributed import gather, is_main_process, once
from rlhf.training.engine import Engine
from rlhf.training.loading import load_to_train
from tests.training import worlds

READS = "reads.json"


def loaded(
    model: Any,
    section: Any,
    *,
    output_dir: Path,
    engine: Engine | None,
    dtype: torch.dtype = torch.float32,
    **other: Any,
) -> Any:
    """The model, saved by the main process and loaded by all; what each has read is in `READS`."""
    base = output_dir / "base"
    once(lambda: worlds.save(model, base))
    place: Any = SimpleNamespace(dtype=dtype, device=torch.device("cpu"))
    load: Any = load_reward_model if hasattr(model, "score") else load_causal_lm
    with counted() as reads:
        found = load_to_train(load, base, section, place, engine)
    everyone = gather(reads)
    once(lambda: (output_dir / READS).write_text(json.dumps(everyone)))
    return found


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each tensor has been taken from a file."""
    reads: Counter[str] = Counter()

    class Counting:
        def __init__(self, *args: Any, **options: Any) -> None:
            self._inner = safe_open(*args, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *error: Any) -> None:
            self._inner.__exit__(*error)

        def get_tensor(self, name: str) -> Any:
            reads[name] += 1
            return self._inner.get_tensor(name)

        def get_slice(self, name: str) -> Any:
            reads[name] += 1
            return self._inner.get_slice(name)

    with mock.patch.object(modeling_utils, "safe_open", Counting):
        yield reads


@dataclass(frozen=True)
class Height:
    """In units of the whole model: what a process keeps of it, and how much more memory it has had
    while loading than before, the mapped file left out."""

    kept: float
    most: float


@dataclass(frozen=True)
class Heights:
    """Of every process, in order of ranks."""

    deepspeed: list[Height]
    torch: list[Height]


def heights(output_dir: Path, engine: Engine, **other: Any) -> Heights:
    """Of a model of 140 MB, spread by DeepSpeed as in the supervised stages, and as in PPO."""
    base, place = (
        output_dir / "base",
        SimpleNamespace(dtype=torch.float32, device=torch.device("cpu")),
    )
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 12}
    once(lambda: worlds.save(worlds.language_model(**shape), base))

    def by_torch() -> Any:
        how = {"dtype": place.dtype, "device": "cpu", "mapped": True}
        model = from_main(partial(load_causal_lm, base, **how))
        spread(model, 3, place.device)
        return model

    section: Any = worlds.sft_section(microbatch_size=1)
    by_deepspeed = partial(load_to_train, load_causal_lm, base, section, place, engine)
    size = (base / "model.safetensors").stat().st_size
    return Heights(*(gather(_height(way, size)) for way in (by_deepspeed, by_torch)))


def _height(load: Callable[[], Any], size: int) -> Height:
    import deepspeed  # noqa: F401  (takes memory, too)

    Path("/proc/self/clear_refs").write_text("5")  # from now on a new high-water mark
    before = _memory("VmRSS")
    model = load()
    most = _memory("VmHWM") - before - size * is_main_process()
    kept = sum(getattr(p, "ds_tensor", own_part(p)).nbytes for p in model.parameters())
    return Height(kept / size, most / size)


def _memory(name: str) -> int:
    """Bytes, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
