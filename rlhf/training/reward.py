"""Stage 2, the reward model, on transformers' Trainer with a loss over ranked responses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from rlhf.config.schema import RMSection
from rlhf.data.collate import RankingBatch, collate_rankings
from rlhf.data.datasets import RankingDataset, RankingItem
from rlhf.models.baichuan.trunk import reads_end_to_end
from rlhf.models.compiled import compile_blocks, compile_training
from rlhf.models.export import save_reward_model
from rlhf.runtime.metrics import MetricsLog
from rlhf.training.batches import ItemMean
from rlhf.training.common import (
    OnLog,
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
from rlhf.training.objective import RankingObjective
from rlhf.training.scoring import (
    count_pairs,
    pair_accuracy,
    pair_loss,
    ranking_scores,
    score_rankings,
)

_NON_FINITE = "non_finite.json"


@dataclass(frozen=True)
class RMSummary:
    """What a reward model's training did.

    accuracy: share of the held-out pairs whose better response has the higher score.
    pairs: how many of these there are. score_mean, score_std: over the training responses.
    flops: 6 x parameters (without the embedding table) x tokens, a prompt that is encoded once for
        its responses counted once.
    """

    accuracy: float
    pairs: int
    steps: int
    score_mean: float
    score_std: float
    flops: float


def train_reward_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: RankingDataset,
    evaluation: RankingDataset,
    section: RMSection,
    *,
    output_dir: Path,
    seed: int,
    metrics: MetricsLog,
    on_log: OnLog | None = None,
    engine: Engine | None = None,
) -> RMSummary:
    """Train, resuming from `output_dir/checkpoints`; save with score statistics in `output_dir`.

    Args:
        model: a sequence classifier with one label, trained in place; its type and device are
            those to compute in.
        engine: DeepSpeed's configuration; None trains without it.

    Raises:
        ValueError: one of the data sets is empty, the batch sizes do not divide, or the model is an
            adapter on another checkpoint.
        FloatingPointError: a score is not finite; `output_dir/non_finite.json` names the records.
    """
    if isinstance(model, PeftModel):
        raise ValueError("rm.model is an adapter; name its base or a whole checkpoint instead")
    _check_pairs("training", train)
    _check_pairs("held-out", evaluation)
    (output_dir / _NON_FINITE).unlink(missing_ok=True)
    dtype, pad_id = model.dtype, tokenizer.pad_token_id
    parameters = computing_parameters(model)
    batch_size = section.microbatch_size * max(len(item.ranks) for item in train.items)
    settings = arguments(section, model, output_dir=output_dir, seed=seed, engine=engine)
    learner = prepare(model, section, "reward", seed, engine)
    if section.compile:
        # Where a shared prompt's keys and values come in a cache, blocks are not compiled whole.
        cached = section.share_prompt and not reads_end_to_end(model, dtype)
        compile_blocks(learner) if cached else compile_training(learner)
    trainer = _RankingTrainer(
        model=learner,
        args=for_one_gpu(TrainingArguments(**settings, remove_unused_columns=False)),
        data_collator=_Collator(pad_id),
        train_dataset=train,
        processing_class=tokenizer,
    )
    trainer.objective, trainer.report_dir = RankingObjective(section), output_dir
    trainer.shares_prompts = section.shares_prompts

    def score(model: Any, data: RankingDataset) -> list[list[float]]:
        return score_rankings(model, data, pad_id, batch_size, share_prompts=section.share_prompt)

    def evaluate() -> dict[str, float]:
        with trainer.accelerator.autocast():
            scores = score(trainer.model, evaluation)
        _check_finite(scores, [item.record.id for item in evaluation.items], output_dir)
        return {
            "eval_accuracy": pair_accuracy(scores, evaluation),
            "eval_loss": pair_loss(scores, evaluation),
        }

    # Autocast casts, where adapters and trunk differ in type; PEFT would first copy to float32.
    with disable_input_dtype_casting(learner):
        watch = Watch(evaluate, section.eval_every, metrics, on_log)
        state = fit(trainer, watch, section.optimiser, engine)
    tuned = trained(trainer, dtype)
    scores = [each for row in score(tuned, train) for each in row]
    mean, std = fmean(scores), pstdev(scores)
    statistics = {"score_mean": mean, "score_std": std}
    save_whole(tuned, lambda: save_reward_model(tuned, tokenizer, output_dir, **statistics))
    let_go(trainer.model_wrapped)
    return RMSummary(
        accuracy=evaluations(state, "eval_accuracy")[-1],
        pairs=count_pairs(evaluation),
        steps=state.global_step,
        score_mean=mean,
        score_std=std,
        flops=6.0 * parameters * state.num_input_tokens_seen,
    )


@dataclass(frozen=True)
class _Collator:
    """A batch in the Trainer's terms, a dict, with the records' ids beside the tensors."""

    pad_id: int

    def __call__(self, items: Sequence[RankingItem]) -> dict[str, Any]:
        ids = [item.record.id for item in items]
        return {"ids": ids, **vars(collate_rankings(items, self.pad_id))}


class _RankingTrainer(ItemMean, Trainer):
    """The Trainer with a loss over rankings, averaged over the items of the whole batch."""

    objective: RankingObjective
    shares_prompts: bool
    report_dir: Path

    def items(self, batch: dict[str, Any]) -> Tensor:
        return self.objective.items(batch["ranks"])

    def tokens(self, rows: Sequence[Any], batch: dict[str, Any]) -> int:
        shared = self.shares_prompts
        return super().tokens(rows, batch) - (int(_ranked(batch).repeated_tokens) if shared else 0)

    def unlearn(self, batch: dict[str, Any]) -> None:
        batch["ranks"].zero_()
        batch["grades"].zero_()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        ids, batch = inputs["ids"], _ranked(inputs)
        # The model's own begins inside it, and which kernel takes a prompt is chosen out here.
        with self.accelerator.autocast():
            scores = ranking_scores(model, batch, share_prompts=self.shares_prompts)
        if not scores.isfinite().all():
            _check_finite(scores.tolist(), ids, self.report_dir)
        loss = self.objective.loss(scores, batch.ranks, batch.grades)
        return self.shared(loss, self.objective.items(batch.ranks))


def _ranked(batch: dict[str, Any]) -> RankingBatch:
    return RankingBatch(**{name: value for name, value in batch.items() if name != "ids"})


def _check_pairs(name: str, data: RankingDataset) -> None:
    if not data.items:
        raise ValueError(
            f"no pair to compare in the {name} rankings: {data.responses_too_long} responses are "
            f"longer than rm.data.max_length, {data.records_too_few} records have fewer than two "
            f"left, {data.records_all_tied} are all tied; check the file and rm.data.max_length"
        )


def _check_finite(scores: Sequence[Sequence[float]], ids: Sequence[str], directory: Path) -> None:
    """Stop if a score is not finite, and save which records those are and what was beside them.

    scores: [N][K]; ids: [N].
    """
    rows = list(zip(ids, scores, strict=True))
    bad = [name for name, row in rows if not all(map(math.isfinite, row))]
    if bad:
        path = directory / _NON_FINITE
        # As text, because JSON has no NaN.
        batch = [{"id": name, "scores": [str(score) for score in row]} for name, row in rows]
        report = {"ids": bad, "batch": batch}
        path.write_text(json.dumps(report, ensure_ascii=False, indent=2), encoding="utf-8")
        raise FloatingPointError(
            f"{len(bad)} of {len(rows)} rankings have a score that is not finite, named in {path}; "
            "lower rm.optimiser.learning_rate or look at those records"
        )
