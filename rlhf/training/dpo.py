"""DPO (Rafailov et al. 2023) on TRL's DPOTrainer, with tokens made beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from rlhf.config.schema import DPOSection
from rlhf.models.export import save_checkpoint
from rlhf.models.scoring import scoring
from rlhf.runtime.distributed import in_order, own_turns
from rlhf.runtime.metrics import MetricsLog
from rlhf.training.batches import ItemMean
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
    trained,
)
from rlhf.training.engine import Engine, computing_parameters, let_go
from rlhf.training.heads import own_head, read_adapted_head

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
"""TRL's names of the columns with the reference's log-probabilities."""
EVALUATED = ("loss", "accuracy", "margin", "chosen_change")


@dataclass(frozen=True)
class DPOSummary:
    """What a DPO training did.

    A response's reward is beta x (its log-probability - the reference's), summed over its tokens.
    accuracy: share of the held-out pairs whose chosen response has the higher reward; pairs: how
        many of these there are. margin: their mean difference in reward.
    chosen_change: mean change of the chosen responses' log-probability, in nats; it may well fall.
    train_pairs: learnt from.
    flops: 6 x parameters (without the embedding table) x tokens, and 2 x for the reference.
    """

    accuracy: float
    pairs: int
    margin: float
    chosen_change: float
    train_pairs: int
    steps: int
    flops: float


def train_dpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    evaluation: Dataset,
    section: DPOSection,
    *,
    output_dir: Path,
    seed: int,
    metrics: MetricsLog,
    on_log: OnLog | None = None,
    engine: Engine | None = None,
) -> DPOSummary:
    """Train, resuming from `output_dir/checkpoints`; save the model, merged, in `output_dir`.

    The reference is the model as it is handed over. Its log-probabilities are read once, before the
    first step, so that no second model stays in memory.

    Args:
        model: trained in place (adapters stay on it, unmerged); its type and device are those to
            compute in.
        engine: DeepSpeed's configuration; None trains without it.
        train, evaluation: columns prompt_ids, chosen_ids and rejected_ids.

    Raises:
        ValueError: one of the data sets is empty, or the batch sizes do not divide.
        FloatingPointError: the loss is no longer finite.
    """
    _check_pairs("training", train)
    _check_pairs("held-out", evaluation)
    dtype, parameters = model.dtype, computing_parameters(model)
    settings = arguments(section, model, output_dir=output_dir, seed=seed, engine=engine)
    config = DPOConfig(
        **settings,
        beta=section.beta,
        max_length=None,
        precompute_ref_log_probs=True,
        per_device_eval_batch_size=section.microbatch_size,
    )
    with own_head(model):
        trainer = _DPOTrainer(
            model=prepare(model, section, "causal", seed, engine),
            args=for_one_gpu(config),
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=tokenizer,
        )
        _drop_reference(trainer.model)

        def evaluate() -> dict[str, float]:
            return _against_reference(trainer.logprobs(evaluation), trainer.eval_dataset, section)

        watch = Watch(evaluate, section.eval_every, metrics, on_log)
        state = fit(trainer, watch, section.optimiser, engine)
        tuned = trained(trainer, dtype)
    save_whole(tuned, lambda: save_checkpoint(tuned, tokenizer, output_dir))
    let_go(trainer.model_wrapped)
    last = {name: evaluations(state, f"eval_{name}")[-1] for name in EVALUATED}
    tokens = 3 * state.num_input_tokens_seen + sum(map(_tokens, train))
    return DPOSummary(
        accuracy=last["accuracy"],
        pairs=len(evaluation),
        margin=last["margin"],
        chosen_change=last["chosen_change"],
        train_pairs=len(train),
        steps=state.global_step,
        flops=2.0 * parameters * tokens,
    )


class _DPOTrainer(Reticent, ItemMean, DPOTrainer):
    """TRL's trainer on token ids, its loss averaged over the pairs of the whole batch."""

    def logprobs(self, data: Dataset) -> Tensor:
        """[2, N] float32: of the chosen and of the rejected responses, by the model as it is."""
        model: Any = self.model
        size, parts = self.args.per_device_eval_batch_size, {}
        with scoring(model), self.accelerator.autocast():
            for place, start in own_turns(range(0, len(data), size)):
                rows = [data[index] for index in range(start, min(start + size, len(data)))]
                batch = self._prepare_inputs(self.data_collator(rows))
                labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
                outputs = model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    labels=labels,
                    use_cache=False,
                    fused_lm_head=True,
                )
                parts[place] = outputs.log_probs.float().sum(dim=1).view(2, -1).cpu()
        return torch.cat(in_order(parts), dim=1)

    def items(self, batch: dict[str, Any]) -> Tensor:
        completions: Tensor = batch["completion_mask"]
        return completions.any(dim=1).sum()

    def length(self, row: dict[str, Any]) -> int:
        return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))

    def unlearn(self, batch: dict[str, Any]) -> None:
        batch["completion_mask"].zero_()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        with _each_for_itself(self.accelerator):
            loss = super().compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        return self.shared(loss, self.items(inputs))

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """Token ids in our chat format: nothing to be guessed from a template."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """By the model before its first step, and kept in memory: TRL's has a cache on disk."""
        model: Any = self.model
        adapted = isinstance(model, PeftModel)
        # Here TRL has made its patch; the reference is read as the policy will be, to the last bit.
        read_adapted_head(model.get_base_model() if adapted else model)
        with model.disable_adapter() if adapted else nullcontext():
            logprobs = self.logprobs(dataset)
        for column, values in zip(REFERENCE, logprobs, strict=True):
            dataset = dataset.add_column(column, values.tolist())
        return dataset


def _against_reference(
    logprobs: Tensor, reference: Dataset, section: DPOSection
) -> dict[str, float]:
    """logprobs: [2, N] of the policy; reference: with the columns of the same pairs."""
    change = logprobs - torch.tensor([reference[column][:] for column in REFERENCE])
    margins = section.beta * (change[0] - change[1]).double()
    found = {
        "loss": -functional.logsigmoid(margins).mean(),
        "accuracy": (margins > 0).double().mean(),
        "margin": margins.mean(),
        "chosen_change": change[0].double().mean(),
    }
    return {f"eval_{name}": float(found[name]) for name in EVALUATED}


def _tokens(row: dict[str, list[int]]) -> int:
    """Of a pair: the prompt is read with either response."""
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


def _drop_reference(model: Any) -> None:
    """Without the copy of the adapter that TRL keeps as the reference: the model with its adapter
    off is the same one. transformers 5.17 resumes such a copy and forgets the adapter that
    learns."""
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")


@contextmanager
def _each_for_itself(accelerator: Any) -> Iterator[None]:
    """TRL gathers figures of its own, which nobody reads, a value a pair: at the end of an epoch
    processes have differently many, and would fail or wait for ever."""
    names = ("gather", "gather_for_metrics")
    for name in names:
        setattr(accelerator, name, lambda values: values)
    try:
        yield
    finally:
        for name in names:
            delattr(accelerator, name)


def _check_pairs(name: str, data: Dataset) -> None:
    if not len(data):
        raise ValueError(
            f"no pair to compare in the {name} rankings; check the file and rm.data.max_length"
        )
