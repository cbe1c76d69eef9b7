"""DeepSpeed's checkpoints, one file a process, for another number of processes than wrote them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlhf.runtime.distributed import once, world_size
from rlhf.training.engine import Engine, shards_weights

_UNIVERSAL = "latest_universal"


def fit_to_processes(checkpoint: Path | None, engine: Engine | None) -> bool:
    """Whether to load it as DeepSpeed's universal checkpoint, which is then made beside it.

    Raises ValueError when the checkpoint is of another engine than the one to resume with.
    """
    if checkpoint is None:
        return False
    if _zero_stage(checkpoint) != _stage_of(engine):
        raise ValueError(
            f"{checkpoint} was written under {_named(_zero_stage(checkpoint))}, not "
            f"{_named(_stage_of(engine))}; set runtime.deepspeed as it was, or start the stage "
            "afresh with --redo"
        )
    if engine is None or len(_states(checkpoint, "optim")) == world_size():
        return False
    once(lambda: _make_universal(checkpoint))
    return True


def _make_universal(checkpoint: Path) -> None:
    if (checkpoint / _UNIVERSAL).is_file():
        return
    step = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    module = "deepspeed.checkpoint.ds_to_universal"
    folders = [f"--input_folder={step}", f"--output_folder={step}_universal"]
    result = subprocess.run(
        [sys.executable, "-m", module, *folders, "--inject_missing_state"],
        cwd=checkpoint,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        (checkpoint / _UNIVERSAL).unlink(missing_ok=True)
        raise RuntimeError(f"{checkpoint}: {module} failed: {result.stderr.strip()[-300:]}")


def _states(checkpoint: Path, kind: str) -> list[Path]:
    return list(checkpoint.glob(f"global_step*[0-9]/*_{kind}_states.pt"))


def _zero_stage(checkpoint: Path) -> int | None:
    """None: not DeepSpeed's. Only ZeRO-3 spreads the weights themselves over files."""
    models = _states(checkpoint, "model")
    if not models:
        return None
    return 3 if any(path.name.startswith("zero_pp_rank") for path in models) else 2


def _stage_of(engine: Engine | None) -> int | None:
    if engine is None:
        return None
    return 3 if shards_weights(engine) else 2


def _named(stage: int | None) -> str:
    return "no DeepSpeed" if stage is None else "ZeRO-3" if stage == 3 else "DeepSpeed below ZeRO-3"


class MendOptimiser(TrainerCallback):
    """What DeepSpeed gets wrong when it loads a universal checkpoint of ZeRO-3.

    All weights share one tensor that counts steps, which torch's AdamW raises once for each of
    them; and all groups have the weight decay of the first, the second being the Trainer's group of
    weights without it. And the count of a fused optimiser has to be on its weight's own GPU.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimiser = kwargs["optimizer"]
        while hasattr(optimiser, "optimizer"):
            optimiser = optimiser.optimizer
        for group, decay in zip(optimiser.param_groups, (args.weight_decay, 0.0), strict=False):
            group["weight_decay"] = decay
        fused = any(group.get("fused") for group in optimiser.param_groups)
        for parameter, values in optimiser.state.items():
            if isinstance(values.get("step"), Tensor):
                device = parameter.device if fused else "cpu"
                values["step"] = values["step"].to(device, copy=True)
