"""What the supervised stages share: precision, optimiser, processes, logging, resuming."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from rlhf.config.schema import OptimiserSection
from rlhf.models.adapter import Task, add_lora
from rlhf.runtime.distributed import barrier, is_main_process, once
from rlhf.runtime.metrics import MetricsLog
from rlhf.training.checkpoints import SealCheckpoints, checkpoint_root, latest, saved_at_interrupt
from rlhf.training.engine import (
    Engine,
    Section,
    accumulation,
    engine_config,
    fit_buckets,
    forget_engine,
    gather_on_main,
    let_accelerate_use_deepspeed,
    precision_of,
)
from rlhf.training.optimisers import forget_overrides, optimiser_name, schedule
from rlhf.training.reshaping import MendOptimiser, fit_to_processes
from rlhf.training.split_adamw import split_optimiser

Args = TypeVar("Args", bound=TrainingArguments)
OnLog = Callable[[int, int, dict[str, float]], None]
"""Called with the step, the number of steps and the row's fields."""


def prepare(
    model: PreTrainedModel, section: Section, task: Task, seed: int, engine: Engine | None = None
) -> Any:
    """The model to train: with adapters if the section asks for them, trainable weights in float32.

    The trunk keeps the type it was loaded in, and `arguments` computes in that type. Weights that
    learn are kept in float32: a bfloat16 weight swallows updates below 1/256 of itself. DeepSpeed
    (`engine`) makes its own ones in float32, spread over the processes, so whole ones are not made.
    """
    set_seed(seed)
    tuned = model if section.tuning.method == "full" else add_lora(model, section.tuning, task)
    if not (splits(section, model) or engine is not None):
        _learn_in_float32(tuned)
    return tuned


def splits(section: Section, model: PreTrainedModel) -> bool:
    """Whether the optimiser keeps the lower halves of the weights (rlhf.training.split_adamw)."""
    return getattr(section, "split_weights", False) and model.dtype == torch.bfloat16


def _learn_in_float32(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def arguments(
    section: Section,
    model: PreTrainedModel,
    *,
    output_dir: Path,
    seed: int,
    steps: int | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments` for a section.

    Args:
        model: as loaded, before `prepare`: its type and device are those to compute in.
        steps: optimiser steps; None takes `max_steps` or, failing that, the epochs.
        engine: DeepSpeed's configuration, where it does the training.
    """
    optimiser = section.optimiser
    microbatches = accumulation(section)
    precision = precision_of(model.dtype)
    resumed = once(lambda: latest(checkpoint_root(output_dir)))
    universal = fit_to_processes(resumed, engine)
    on_cpu = model.device.type == "cpu"
    if engine is not None and on_cpu:
        let_accelerate_use_deepspeed()
    kind, settings = schedule(optimiser)
    return {
        "output_dir": str(checkpoint_root(output_dir)),
        "seed": seed,
        "num_train_epochs": section.epochs,
        "max_steps": steps or section.max_steps or -1,
        "per_device_train_batch_size": section.microbatch_size,
        "gradient_accumulation_steps": microbatches,
        "gradient_checkpointing": section.gradient_checkpointing is True,
        "learning_rate": optimiser.learning_rate,
        "lr_scheduler_type": kind,
        "lr_scheduler_kwargs": settings,
        "warmup_steps": optimiser.warmup_steps,
        "weight_decay": optimiser.weight_decay,
        "adam_beta1": optimiser.beta1,
        "adam_beta2": optimiser.beta2,
        "max_grad_norm": optimiser.grad_clip,
        "optim": optimiser_name(optimiser, model.device),
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "deepspeed": engine and engine_config(engine, section, microbatches, precision, universal),
        "accelerator_config": {"use_configured_state": engine is not None and on_cpu},
        "ddp_find_unused_parameters": False,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": model.device.type == "cuda",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would replace a NaN by the mean of earlier losses
        "save_steps": section.checkpoint_every,
        "save_total_limit": 2,  # the newest may be half-written
        "report_to": "none",
        "log_level_replica": "passive",  # as quiet as the first process
        "disable_tqdm": True,
    }


def for_one_gpu(args: Args) -> Args:
    """The same arguments. Alone on a host of several GPUs, the Trainer would give each of them a
    batch of its own, and so multiply it; here every GPU has a process (`--nproc`)."""
    args._n_gpu = min(args.n_gpu, 1)
    return args


class Reticent:
    """Goes before one of TRL's trainers: no model card, no telemetry."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint to resume from needs none."""

    def _send_telemetry(self) -> None:
        """A training run tells nobody."""


class Watch(TrainerCallback):
    """Evaluates before the first step, every `every` steps and after the last; passes every row on.

    Evaluations are kept in the Trainer's own history, so a resumed run still knows those before it.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict[str, float]],
        every: int,
        metrics: MetricsLog,
        on_log: OnLog | None,
    ) -> None:
        self._evaluate = evaluate
        self._every = every
        self._metrics = metrics
        self._on_log = on_log

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._record_evaluation(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            self._record_evaluation(state)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._metrics.sync()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        row = kwargs["logs"]
        if "loss" in row:  # the Trainer also logs its run time, once
            names = ("loss", "learning_rate", "grad_norm")
            self._pass_on(state, {name: float(row[name]) for name in names if name in row})

    def _record_evaluation(self, state: TrainerState) -> None:
        fields = self._evaluate()
        state.log_history.append({**fields, "step": state.global_step})
        self._pass_on(state, fields)

    def _pass_on(self, state: TrainerState, fields: dict[str, float]) -> None:
        if not all(math.isfinite(value) for name, value in fields.items() if "loss" in name):
            raise FloatingPointError(f"step {state.global_step}: {fields}: the loss is not finite")
        if state.is_world_process_zero:
            self._metrics.log(state.global_step, fields)
            if self._on_log is not None:
                self._on_log(state.global_step, state.max_steps, fields)


def fit(
    trainer: Trainer,
    watch: Watch,
    optimiser: OptimiserSection,
    engine: Engine | None,
    split: bool = False,
    compiled: bool = False,
) -> TrainerState:
    """Train from the newest complete checkpoint, or from the start, to the end; the state there.

    split: weights stay in bfloat16, and the optimiser keeps what float32 has more; compiled: it
        does so in fused kernels.
    """
    assert trainer.model is not None
    half = trainer.args.bf16 or trainer.args.fp16
    if split:
        trainer.optimizer_cls_and_kwargs = split_optimiser(optimiser, compiled=compiled)
    if not (split or (engine is not None and half)):
        # TRL's trainers turn the adapters of a quantised model to bfloat16.
        _learn_in_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    trainer.add_callback(SealCheckpoints)  # after the rows that came before it are on the disk
    if engine is not None:
        trainer.add_callback(MendOptimiser)
        plugin = trainer.accelerator.state.deepspeed_plugin
        fit_buckets(plugin.hf_ds_config.config["zero_optimization"], trainer.model)
    assert trainer.args.output_dir is not None
    root = Path(trainer.args.output_dir)
    checkpoint = once(lambda: latest(root))
    try:
        with saved_at_interrupt(trainer):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        forget_overrides()
    if engine is not None:
        forget_engine()
    return trainer.state


def trained(trainer: Trainer, dtype: torch.dtype) -> Any:
    """The trained model without the Trainer's wrappers, in evaluation mode.

    Weights go back to the type they were loaded in, but for adapters, which PEFT loads in float32.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    model.zero_grad(set_to_none=True)
    return model.eval()


def save_whole(model: Any, save: Callable[[], None]) -> None:
    """Call `save` on the main process, the model's weights whole; when it is done all go on."""
    gather_on_main(model)
    if is_main_process():
        save()
    barrier()


def evaluations(state: TrainerState, name: str) -> list[float]:
    """Every evaluation's value of a field, in the order of steps."""
    return [row[name] for row in state.log_history if name in row]
