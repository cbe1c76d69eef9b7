import json
from os.path import commonprefix
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rlhf.config.schema import TuningSection
from rlhf.data.datasets import RankingDataset
from rlhf.models.adapter import add_lora
from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from rlhf.models.checkpoint import score_statistics
from rlhf.models.load import load_reward_model
from rlhf.models.scoring import score_responses
from rlhf.ops.losses import ranking_loss
from rlhf.runtime.quiet import quiet
from rlhf.training.reward import RMSummary, train_reward_model
from rlhf.training.scoring import pair_accuracy, pair_loss, score_rankings
from tests.training.worlds import (
    Rows,
    checkpoints,
    fresh_reward_model,
    rankings,
    reward_model,
    rm_section,
    saved_trunk,
    tokenizer,
    weights,
)


def run(path: Path, rows: Rows | None = None, model: Any = None, **changes: Any) -> RMSummary:
    on_log = changes.pop("on_log", None)
    return train_reward_model(
        reward_model() if model is None else model,
        tokenizer(),
        changes.pop("train", rankings(60)),
        changes.pop("evaluation", rankings(30, seed=1)),
        rm_section(**changes),
        output_dir=path,
        seed=0,
        metrics=rows or Rows(),
        on_log=on_log,
    )


def mean_score(model: Any, data: RankingDataset) -> float:
    return fmean(score for row in score_rankings(model, data, 0, 16) for score in row)


def test_it_learns_a_preference_and_stores_its_score_statistics(tmp_path: Path) -> None:
    rows, train = Rows(), rankings(60)
    summary = run(tmp_path, rows, max_steps=24)
    assert summary.accuracy > 0.95
    assert summary.pairs == 15 * 3 + 15 * 6
    assert rows.of("eval_accuracy")[-1] == summary.accuracy
    assert rows.of("eval_loss")[-1] < 0.5 * rows.of("eval_loss")[0]

    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(saved) is BaichuanForSequenceClassification
    sequences = [ids for item in train.items for ids in item.input_ids]
    scores = torch.tensor(score_responses(saved, sequences, 0, 7))
    assert float(scores.mean()) == pytest.approx(summary.score_mean, abs=1e-5)
    assert float(scores.std(correction=0)) == pytest.approx(summary.score_std, rel=1e-5)
    assert saved.config.score_mean == summary.score_mean
    assert saved.config.score_std == summary.score_std

    (tmp_path / "tokenizer.model").touch()
    loaded = load_reward_model(tmp_path, dtype=torch.float32, device="cpu")
    assert mean_score(loaded, train) == summary.score_mean


@pytest.mark.parametrize("share", [False, True])
def test_flops_count_a_prompt_as_often_as_it_is_encoded(tmp_path: Path, share: bool) -> None:
    items = rankings(60).items
    tokens = sum(len(ids) for item in items for ids in item.input_ids)
    if share:
        starts = [len(commonprefix(item.input_ids)) for item in items]
        assert min(starts) > 0
        tokens -= sum(
            start * (len(item.ranks) - 1) for start, item in zip(starts, items, strict=True)
        )
    summary = run(tmp_path, max_steps=None, epochs=2, share_prompt=share)
    assert summary.steps == 16  # 60 prompts, 8 a step, the last step of an epoch has 4
    parameters = reward_model().num_parameters(exclude_embeddings=True)
    assert summary.flops == 6.0 * parameters * 2 * tokens


@pytest.mark.parametrize("margins", [None, (0.0, 0.5, 1.0, 2.0, 3.0)])
@pytest.mark.parametrize("loss", ["kway", "pairwise"])
def test_the_first_loss_is_a_mean_over_the_whole_batch(
    tmp_path: Path, loss: str, margins: Any
) -> None:
    # 7 prompts in microbatches of 4: the second has 3. All neighbours have grade 2, so a pair one
    # apart asks a margin of 0.5, two apart (grade 4) 2.0, three apart (grade 5) 3.0.
    rows, data = Rows(), rankings(7)
    run(tmp_path, rows, train=data, max_steps=1, grade_margins=margins, loss=loss)
    asked = {1: 0.5, 2: 2.0, 3: 3.0}
    losses = []
    for item in data.items:
        scores = torch.tensor(score_responses(reward_model(), item.input_ids, 0, 4))
        pairs = [
            scores[i] - scores[j] - (asked[item.ranks[j] - item.ranks[i]] if margins else 0.0)
            for i in range(len(scores))
            for j in range(len(scores))
            if item.ranks[i] < item.ranks[j]
        ]
        losses.append(torch.nn.functional.softplus(-torch.stack(pairs)))
    if loss == "kway":
        losses = [each.mean(dim=0, keepdim=True) for each in losses]
    assert rows.of("loss")[0] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_bfloat16_model_is_the_same_when_loaded(tmp_path: Path, method: Any) -> None:
    trunk, train = saved_trunk(tmp_path / "sft"), rankings(60)
    model = fresh_reward_model(trunk, torch.bfloat16)
    tuning = TuningSection(method=method, r=4)
    summary = run(tmp_path / "rm", model=model, train=train, max_steps=24, tuning=tuning)
    assert summary.accuracy > 0.9
    (tmp_path / "rm" / "tokenizer.model").touch()
    loaded = load_reward_model(tmp_path / "rm", dtype=torch.bfloat16, device="cpu")
    assert mean_score(loaded, train) == summary.score_mean


@pytest.mark.parametrize("method", ["full", "lora"])
def test_kernels_are_chosen_for_the_type_that_is_computed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """Also where the weights that learn are kept in float32."""
    asked = []

    def note(model: Any, dtype: torch.dtype) -> bool:
        asked.append(dtype)
        return False

    monkeypatch.setattr("rlhf.models.scoring.reads_end_to_end", note)
    model = fresh_reward_model(saved_trunk(tmp_path / "sft"), torch.bfloat16)
    run(tmp_path / "rm", model=model, max_steps=2, tuning=TuningSection(method=method, r=4))
    assert asked and set(asked) == {torch.bfloat16}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_resuming_equals_not_stopping(tmp_path: Path, method: Any) -> None:
    tuning = TuningSection(method=method, r=4, dropout=0.1)
    settings: dict[str, Any] = {"checkpoint_every": 5, "tuning": tuning}
    trunk = saved_trunk(tmp_path / "sft")
    whole, parts = Rows(), Rows()
    expected = run(tmp_path / "whole", whole, fresh_reward_model(trunk), **settings)

    def fail(step: int, total: int, fields: dict[str, float]) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", None, fresh_reward_model(trunk), on_log=fail, **settings)
    assert checkpoints(tmp_path / "parts") == ["checkpoint-5"]
    assert run(tmp_path / "parts", parts, fresh_reward_model(trunk), **settings) == expected
    assert parts.rows == [row for row in whole.rows if row["step"] > 5]


def test_lora_trains_adapters_and_head_and_is_the_same_when_loaded(tmp_path: Path) -> None:
    trunk = saved_trunk(tmp_path / "sft")
    model, train = fresh_reward_model(trunk), rankings(60)
    before = weights(model)
    tuning = TuningSection(method="lora", r=4)
    summary = run(tmp_path / "rm", model=model, train=train, max_steps=24, tuning=tuning)
    assert summary.accuracy > 0.95
    assert torch.equal(before["model.embed_tokens.weight"], model.model.embed_tokens.weight)
    assert torch.equal(before["model.norm.weight"], model.model.norm.weight)

    (tmp_path / "rm" / "tokenizer.model").touch()
    loaded = load_reward_model(tmp_path / "rm", dtype=torch.float32, device="cpu")
    assert mean_score(loaded, train) == summary.score_mean
    assert score_statistics(tmp_path / "rm") == (summary.score_mean, summary.score_std)


def test_an_adapter_is_no_start(tmp_path: Path) -> None:
    """Its successor would be saved without it."""
    trunk = fresh_reward_model(saved_trunk(tmp_path / "sft"))
    adapted = add_lora(trunk, TuningSection(method="lora", r=4), "reward")
    with pytest.raises(ValueError, match="rm.model is an adapter"):
        run(tmp_path / "rm", model=adapted)


def test_accuracy_is_over_pairs_not_over_prompts() -> None:
    three, four = rankings(2).items
    data = RankingDataset((three, four), 0, 0, 0)
    right = [float(-rank) for rank in three.ranks]
    wrong = [float(rank) for rank in four.ranks]
    assert pair_accuracy([right, wrong], data) == 3 / 9
    assert pair_accuracy([[0.0] * 3, [0.0] * 4], data) == 0.0  # equal scores decide nothing


def test_the_loss_of_an_evaluation_is_a_mean_over_prompts() -> None:
    data = rankings(2)
    scores = [[0.3, -0.2, 1.0], [0.1, 0.4, -2.0, 0.0]]
    each = [
        float(ranking_loss(torch.tensor([row]), torch.tensor([item.ranks])))
        for row, item in zip(scores, data.items, strict=True)
    ]
    assert pair_loss(scores, data) == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_score_that_is_not_finite_stops_and_names_its_records(
    tmp_path: Path, held_out: bool
) -> None:
    model = reward_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[25] = float("nan")
    data = rankings(4)
    item = data.items[2]
    object.__setattr__(item, "input_ids", ((25, 2), *item.input_ids[1:]))
    with pytest.raises(FloatingPointError, match="1 of 4"):
        run(tmp_path, model=model, **({"evaluation": data} if held_out else {"train": data}))
    report = json.loads((tmp_path / "non_finite.json").read_text(encoding="utf-8"))
    assert report["ids"] == ["r2"]
    assert {row["id"] for row in report["batch"]} == {"r0", "r1", "r2", "r3"}


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_sharing_prompts_changes_no_step(tmp_path: Path, position: str) -> None:
    logs = []
    for name, settings in (
        ("shared", {}),
        ("separate", {"share_prompt": False}),
        ("checkpointed", {"gradient_checkpointing": True}),
    ):
        rows = Rows()
        run(tmp_path / name, rows, reward_model(position_embedding=position), **settings)
        logs.append([[row.get(key, 0.0) for key in ("loss", "grad_norm")] for row in rows.rows])
    assert len(logs[0]) == 16
    assert logs[1] == [pytest.approx(row, rel=1e-3, abs=1e-5) for row in logs[0]]
    assert logs[2] == [pytest.approx(row, rel=1e-3, abs=1e-5) for row in logs[0]]


@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_scores_are_in_the_items_order(batch_size: int, share_prompts: bool) -> None:
    model, data = reward_model(), rankings(6)
    scores = score_rankings(model, data, 0, batch_size, share_prompts=share_prompts)
    for item, row in zip(data.items, scores, strict=True):
        assert row == pytest.approx(score_responses(model, item.input_ids, 0, 1), abs=1e-5)
    assert model.training


def test_it_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        run(tmp_path, gradient_checkpointing=True)
    assert capfd.readouterr() == ("", "")


def test_empty_data_is_refused(tmp_path: Path) -> None:
    empty = RankingDataset((), 0, 0, 0)
    with pytest.raises(ValueError, match="training"):
        run(tmp_path, train=empty)
    with pytest.raises(ValueError, match="held-out"):
        run(tmp_path, evaluation=empty)
