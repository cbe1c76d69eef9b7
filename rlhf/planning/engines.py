"""What one GPU of several holds of a model: plain data parallelism, and DeepSpeed's ZeRO."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.config.paths import resource
from rlhf.config.schema import OptimiserSection

BUCKET, PREFETCH = 500_000_000, 50_000_000
"""DeepSpeed's defaults, in parameters: what is reduced at once, and what is fetched ahead."""
BUCKETS = 9
"""With overlap_comm, buckets in memory at once: 4.5 to reduce and 4.5 to gather (transformers'
documentation of its DeepSpeed integration)."""
PARTS = 1_000_000_000
"""DeepSpeed's sub_group_size by default, in parameters of a GPU's own: ZeRO-3's steps at once."""
HALF = 2
"""Bytes of a weight or gradient that DeepSpeed computes with."""


@dataclass(frozen=True)
class Learner:
    """What learns. Sizes in bytes: frozen weights, one learning weight as it is kept, and the copy
    of it that computes, where that is another.

    learning: how many weights. layer: of those and of frozen ones, bytes of the largest part that
    is gathered at once.
    """

    frozen: int
    learning: int
    width: int
    optimiser: OptimiserSection
    layer: int = 0
    copy: int = 0

    @property
    def states(self) -> int:
        """Bytes a learning weight of AdamW's two averages; in 8 bits one each."""
        return 2 if self.optimiser.kind == "adamw-8bit" else 2 * self.width


@dataclass(frozen=True)
class Held:
    """Bytes on one GPU. step: what the optimiser's step needs on top, which is nothing where it is
    fused or goes weight by weight. host: in the memory of its computer, for this GPU."""

    weights: int
    gradients: int
    optimiser: int
    step: int
    host: int = 0


@dataclass(frozen=True)
class Engine:
    """stage: of ZeRO, 0 for none (Rajbhandari et al. 2020). offload: the optimiser lives in host
    memory. hpz: GPUs that hold a whole copy of the weights among them (ZeRO++, Wang et al. 2023);
    1: off. bucket, prefetch, whole: in parameters; `whole` are never spread by ZeRO-3."""

    gpus: int = 1
    stage: int = 0
    offload: bool = False
    hpz: int = 1
    bucket: int = BUCKET
    prefetch: int = PREFETCH
    whole: int = 0

    @property
    def name(self) -> str:
        if self.stage == 0:
            return "one process" if self.gpus == 1 else "data parallel"
        extras = [" + offload"] * self.offload + [f" + hpZ {self.hpz}"] * (self.hpz > 1)
        return f"ZeRO-{self.stage}" + "".join(extras)

    def held(self, learner: Learner) -> Held:
        """Of a model that learns, without activations."""
        if self.stage == 0:
            return self._replicated(learner)
        weights = learner.frozen + HALF * learner.learning
        bucket = HALF * min(BUCKETS * self.bucket, 2 * learner.learning)
        if self.stage == 3:
            copies = _share(weights, self.gpus) + (_share(weights, self.hpz) if self.hpz > 1 else 0)
            kept = HALF * self.whole * (self.gpus - 1) // self.gpus
            weights = min(weights, copies + kept + learner.layer + HALF * self.prefetch)
        # The optimiser's own weights are float32 ones, and so is the gradient that it takes: made
        # of all of a flat copy under ZeRO-2, and of one part after another under ZeRO-3.
        states = _share(learner.learning * (4 + 2 * 4), self.gpus)
        gradients = _share(HALF * learner.learning, self.gpus) + bucket
        own = _share(learner.learning, self.gpus)
        step = 0 if self.offload else (HALF + 4) * (min(own, PARTS) if self.stage == 3 else own)
        if self.offload:
            host = states + _share(4 * learner.learning, self.gpus)
            return Held(weights, gradients, 0, step, host)
        return Held(weights, gradients, states, step)

    def _replicated(self, learner: Learner) -> Held:
        own = learner.learning * learner.width
        # Between processes, gradients are summed in buckets as large as themselves.
        gradients = own * (2 if self.gpus > 1 else 1)
        return Held(
            learner.frozen + own + learner.learning * learner.copy,
            gradients,
            learner.learning * learner.states,
            step=0,
        )


def read_engine(deepspeed: str | None, gpus: int, hidden_size: int) -> Engine:
    """The engine of `runtime.deepspeed`: a DeepSpeed JSON, or the name of a packaged one. One
    process uses it, too: the optimiser may be on the CPU.

    Raises ValueError for a file that is not there or no DeepSpeed configuration.
    """
    if deepspeed is None:
        return Engine(gpus)
    path = Path(deepspeed)
    if not path.is_file():
        path = resource(f"configs/deepspeed/{path.name.removesuffix('.json')}.json")
    try:
        zero: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]
        stage = int(zero["stage"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: no zero_optimization.stage; name a DeepSpeed JSON") from None
    offload = (zero.get("offload_optimizer") or {}).get("device", "none") != "none"
    hpz = int(zero.get("zero_hpz_partition_size", 1))
    return Engine(
        gpus,
        stage,
        offload,
        hpz,
        # transformers writes the square of the hidden size for "auto", and nine tenths of it.
        _number(zero.get("reduce_bucket_size", BUCKET), hidden_size**2),
        _number(zero.get("stage3_prefetch_bucket_size", PREFETCH), hidden_size**2 * 9 // 10),
    )


def _number(value: Any, automatic: int) -> int:
    return automatic if value == "auto" else int(value)


def _share(size: int, parts: int) -> int:
    return -(-size // parts)
