"""What is planned: a config's stages, on so many GPUs of so much memory, each with its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from rlhf.config.base import check_multiple
from rlhf.config.schema import Config, DPOSection, PPOSection, RMSection, SFTSection
from rlhf.models.registry import REGISTRY, named, spec_on_disk
from rlhf.models.spec import ModelSpec
from rlhf.models.spread import check_learning
from rlhf.planning.engines import Engine, read_engine
from rlhf.planning.rates import H100, Rates

GIB = 1024**3
ALL_STAGES = ("sft", "collect", "dpo", "rm", "ppo", "evaluate")
SUPERVISED = ("sft", "dpo", "rm")
USABLE = 0.94
"""Of a GPU's memory: the rest is CUDA's context, workspaces and fragments of the allocator."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """memory: GiB of a GPU. specs: sizes by path, for checkpoints that are not on disk.
    chosen: an engine in place of the config's. rates: of a GPU."""

    config: Config
    gpus: int = 1
    memory: float = 80.0
    specs: Mapping[str, ModelSpec] = field(default_factory=dict)
    chosen: Engine | None = None
    rates: Rates = H100

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that the run has, in order."""
        chosen = self.config.stages or ALL_STAGES
        return tuple(s for s in ALL_STAGES if s in chosen and (s != "dpo" or self.config.dpo))

    @property
    def engine(self) -> Engine:
        """Of the supervised stages."""
        deepspeed = self.config.runtime.deepspeed
        return self.chosen or read_engine(deepspeed, self.gpus, self.main.hidden_size)

    @property
    def usable(self) -> float:
        """Bytes of a GPU for tensors."""
        return USABLE * self.memory * GIB

    @property
    def dtype(self) -> torch.dtype:
        """`auto` is bfloat16, for a GPU is planned."""
        runtime = self.config.runtime
        default = "float32" if runtime.device == "cpu" else "bfloat16"
        return DTYPES[default if runtime.precision == "auto" else runtime.precision]

    @property
    def main(self) -> ModelSpec:
        return self.spec(self.config.main.path, self.config.main.architecture)

    def spec(self, path: str, architecture: str) -> ModelSpec:
        """A checkpoint's own sizes where they are known, else those of the named architecture."""
        if path in self.specs:
            return self.specs[path]
        return spec_on_disk(path) or named(architecture)

    def source(self, path: str, size: str) -> ModelSpec:
        """Of a model whose responses are collected; what is not there yet goes by its size."""
        if path.startswith("run://"):
            name = path.rpartition("/")[2]
            entry = self.config.models.get(name, self.config.main)
            return self.spec(entry.path, entry.architecture)
        family = self.config.main.architecture.rpartition("-")[0]
        like = f"{family}-{size}"
        return self.spec(path, like if like in REGISTRY else self.config.main.architecture)

    def any_spec(self, path: str) -> ModelSpec:
        """Of whatever checkpoint the config names; what is not there yet is made of the main model,
        unless it says otherwise."""
        architectures = {entry.path: entry.architecture for entry in self.config.models.values()}
        sizes = {entry.path: entry.size for entry in self.config.collect.models}
        if path in architectures:
            return self.spec(path, architectures[path])
        if path in sizes:
            return self.source(path, sizes[path])
        return self.specs.get(path) or spec_on_disk(path) or self.main

    def check_spread(self, section: SFTSection | DPOSection | RMSection) -> None:
        """Raises ValueError for what a run refuses under DeepSpeed."""
        engine = self.engine
        if engine.stage == 3 and isinstance(section, DPOSection):
            raise ValueError("dpo does not run under ZeRO-3: set runtime.deepspeed to zero2 for it")
        if engine.stage:
            try:
                check_learning(section, engine.stage, engine.offload)
            except ValueError as error:
                name = next(n for n in SUPERVISED if getattr(self.config, n) is section)
                raise ValueError(f"{name}.{error}") from None

    def again(self, section: SFTSection | DPOSection | RMSection | PPOSection) -> float:
        """Share of the blocks that are computed again in the backward pass."""
        blocks = section.gradient_checkpointing
        return float(blocks) if isinstance(blocks, bool) else min(1.0, blocks / self.main.layers)

    def microbatches(self, name: str, batch: int, size: int) -> int:
        """Backward passes of one GPU before a step.

        Raises ValueError unless every GPU gets equally many.
        """
        check_multiple(name, batch, f"microbatch_size x {self.gpus} GPUs", size * self.gpus)
        return batch // (size * self.gpus)
