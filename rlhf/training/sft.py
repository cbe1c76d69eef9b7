"""Stage 1, supervised fine-tuning, on TRL's SFTTrainer with tokens and labels made beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from rlhf.config.schema import SFTSection
from rlhf.models.compiled import compile_training
from rlhf.models.export import save_checkpoint
from rlhf.models.recompute import recompute_blocks
from rlhf.runtime.metrics import MetricsLog
from rlhf.training.batches import EachOnce
from rlhf.training.common import (
    OnLog,
    Reticent,
    Watch,
    arguments,
    evaluations,
    fit,
    for_one_gpu,
    prepare,
    save_whole,
    splits,
    trained,
)
from rlhf.training.engine import Engine, computing_parameters, let_go
from rlhf.training.heads import own_head
from rlhf.training.neftune import noisy_embeddings
from rlhf.training.packing import pack, packed_collator
from rlhf.training.token_loss import token_mean_loss


@dataclass(frozen=True)
class SFTSummary:
    """What a fine-tuning did.

    eval_loss_before, eval_loss_after: nats a labelled held-out token.
    tokens: trained on, padding left out.
    flops: 6 x parameters (without the embedding table) x tokens.
    plateau: relative fall of the held-out loss over the last quarter of the evaluations; near 0
        once it has levelled.
    """

    eval_loss_before: float
    eval_loss_after: float
    tokens: int
    steps: int
    flops: float
    plateau: float


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    evaluation: Dataset,
    section: SFTSection,
    *,
    output_dir: Path,
    seed: int,
    metrics: MetricsLog,
    max_flops: float | None = None,
    on_log: OnLog | None = None,
    engine: Engine | None = None,
) -> SFTSummary:
    """Fine-tune, resuming from `output_dir/checkpoints`; save the model, merged, in `output_dir`.

    Args:
        model: trained in place (adapters stay on it, unmerged); its type and device are those to
            compute in.
        train, evaluation: columns input_ids and labels, -100 where there is no loss.
        engine: DeepSpeed's configuration; None trains without it.
        max_flops: train for the steps that this budget pays, instead of the section's epochs.

    Raises:
        ValueError: one of the data sets has no label, or the batch sizes do not divide.
        FloatingPointError: the loss is no longer finite.
    """
    _check_answers("training", train)
    _check_answers("held-out", evaluation)
    if section.max_z_weight is not None:
        model.config.z_loss_weight = section.max_z_weight
    dtype, parameters = model.dtype, computing_parameters(model)
    rows = train
    if section.packing:  # long rows, and arrays become tensors sooner than lists do
        rows = pack(train, section.max_length).with_format("numpy")
    steps = _affordable_steps(max_flops, 6.0 * parameters, rows, section.batch_size)
    settings = arguments(
        section, model, output_dir=output_dir, seed=seed, steps=steps, engine=engine
    )
    split, learner = splits(section, model), _learner(model, section, seed, engine)
    with own_head(model):
        trainer = _SFTTrainer(
            model=learner,
            args=_config(section, settings),
            data_collator=_collator(section, model, tokenizer),
            train_dataset=rows,
            processing_class=tokenizer,
            loss_chunk=section.loss_chunk,
        )

    def evaluate() -> dict[str, float]:
        # Rows as they come, once in a while: not worth graphs of their own.
        with trainer.compute_loss_context_manager(), torch.compiler.set_stance("force_eager"):
            loss = token_mean_loss(
                trainer.model,
                evaluation,
                tokenizer.pad_token_id,
                section.microbatch_size,
                section.loss_chunk,
            )
        return {"eval_loss": loss}

    watch = Watch(evaluate, section.eval_every, metrics, on_log)
    # Autocast casts; a compiled block would first copy each adapter's input to float32.
    casting = disable_input_dtype_casting(learner) if section.compile else nullcontext()
    with casting, noisy_embeddings(model, section.neftune_alpha):
        state = fit(trainer, watch, section.optimiser, engine, split, section.compile)
    tuned = trained(trainer, dtype)
    save_whole(tuned, lambda: save_checkpoint(tuned, tokenizer, output_dir))
    let_go(trainer.model_wrapped)
    losses = evaluations(state, "eval_loss")
    return SFTSummary(
        eval_loss_before=losses[0],
        eval_loss_after=losses[-1],
        tokens=state.num_input_tokens_seen,
        steps=state.global_step,
        flops=6.0 * parameters * state.num_input_tokens_seen,
        plateau=plateau(losses),
    )


def plateau(losses: Sequence[float]) -> float:
    """Relative fall of the loss over the last quarter of the evaluations, at least the last two."""
    start = losses[-1 - max(1, len(losses) // 4)]
    return (start - losses[-1]) / start


class _SFTTrainer(Reticent, EachOnce, SFTTrainer):
    """TRL's trainer with the model's own loss.

    TRL multiplies the last hidden states by the bare weight of the head. Under a NormHead or an
    adapter that is another model, and it leaves out Max-z; so it is made inside `own_head`, which
    takes the patch of `forward` off again.
    """

    def __init__(self, *, loss_chunk: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._loss_chunk = loss_chunk

    def unlearn(self, batch: dict[str, Any]) -> None:
        batch["labels"].fill_(-100)

    def tokens(self, rows: Sequence[Any], batch: dict[str, Any]) -> int:
        # Packed, a batch has no mask, and the id that pads may be one that ends conversations.
        return sum(len(row["input_ids"]) for row in rows)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        inputs = {**inputs, "use_cache": False, "loss_chunk": self._loss_chunk}
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)


def _check_answers(name: str, data: Dataset) -> None:
    if not any(label != -100 for labels in data["labels"] for label in labels):
        raise ValueError(
            f"no answer to learn from in the {name} SFT data; check the file and sft.max_length"
        )


def _config(section: SFTSection, settings: dict[str, Any]) -> SFTConfig:
    config = SFTConfig(
        **settings,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return for_one_gpu(config)


def _learner(model: PreTrainedModel, section: SFTSection, seed: int, engine: Engine | None) -> Any:
    """The model to train, as the section has it computed."""
    learner = prepare(model, section, "causal", seed, engine)
    if section.gradient_checkpointing is not True:
        recompute_blocks(learner, section.gradient_checkpointing or 0)
    if section.compile:
        compile_training(learner, section.activation_budget)
    return learner


def _collator(section: SFTSection, model: PreTrainedModel, tokenizer: Any) -> Any:
    if section.packing:
        varlen = section.packed_attention == "varlen"
        longest = section.max_length if varlen else None
        return packed_collator(model, tokenizer.pad_token_id, longest)
    return DataCollatorForLanguageModeling(tokenizer.pad_token_id)


def _affordable_steps(
    budget: float | None, flops_per_token: float, rows: Dataset, batch: int
) -> int | None:
    """Steps whose tokens, at the mean of an epoch, cost no more than the budget; at least one."""
    if budget is None:
        return None
    tokens = sum(len(ids) for ids in rows["input_ids"])
    steps_per_epoch = -(-len(rows) // batch)
    return max(1, int(budget / (flops_per_token * tokens / steps_per_epoch)))
