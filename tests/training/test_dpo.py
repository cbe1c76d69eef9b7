from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn import functional

from rlhf.config.schema import DPOSection, OptimiserSection, TuningSection
from rlhf.models import head_loss
from rlhf.models.baichuan.modeling import BaichuanForCausalLM
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.quiet import quiet
from rlhf.training.dpo import DPOSummary, train_dpo
from tests.models.moss import conftest as moss
from tests.training.worlds import Rows, checkpoints, language_model, tokenizer, weights


def pairs(count: int, seed: int = 0) -> Dataset:
    """Word 5 is the chosen answer to anything, word 6 the rejected one; both then end."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(2, 6, (), generator=generator))
        question = torch.randint(7, 20, (length,), generator=generator).tolist()
        times = int(torch.randint(1, 4, (), generator=generator))
        chosen, rejected = [5] * 2 + [2], [6] * times + [2]
        rows.append({"prompt_ids": [3, *question], "chosen_ids": chosen, "rejected_ids": rejected})
    return Dataset.from_list(rows)


def dpo_section(**changes: Any) -> DPOSection:
    settings: dict[str, Any] = {
        "batch_size": 8,
        "microbatch_size": 4,
        "max_steps": 12,
        "eval_every": 4,
        "checkpoint_every": 5,
        "optimiser": OptimiserSection(learning_rate=3e-3),
    }
    return DPOSection(**{**settings, **changes})


def run(path: Path, rows: Any = None, model: Any = None, **changes: Any) -> DPOSummary:
    on_log = changes.pop("on_log", None)
    return train_dpo(
        language_model() if model is None else model,
        tokenizer(),
        changes.pop("train", pairs(48)),
        changes.pop("evaluation", pairs(16, seed=1)),
        dpo_section(**changes),
        output_dir=path,
        seed=0,
        metrics=rows or Rows(),
        on_log=on_log,
    )


def plain_baichuan() -> Any:
    return language_model(norm_head=False)


def tiny_moss() -> Any:
    """Its head has a bias."""
    return moss.tiny_model(32)


def response_logprob(model: Any, prompt: list[int], response: list[int]) -> float:
    """By the model's own logits, one sequence at a time."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0]
    logprobs = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return float(logprobs.gather(1, torch.tensor(response)[:, None]).sum())


def logprobs(model: Any, data: Dataset) -> torch.Tensor:
    """[N, 2]"""
    return torch.tensor(
        [
            [
                response_logprob(model, row["prompt_ids"], row[f"{kind}_ids"])
                for kind in ("chosen", "rejected")
            ]
            for row in data
        ]
    )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_learns_the_preference(tmp_path: Path, method: Any) -> None:
    rows = Rows()
    tuning = TuningSection(method=method, r=4)
    summary = run(tmp_path, rows, max_steps=16, tuning=tuning)
    assert rows.of("eval_accuracy")[0] == 0.0  # before the first step all rewards are exactly 0
    assert rows.of("eval_loss")[0] == pytest.approx(0.693147, abs=1e-5)
    assert rows.of("loss")[0] == pytest.approx(0.693147, abs=1e-5)
    assert summary.accuracy > 0.9 and summary.pairs == 16 and summary.train_pairs == 48

    # What it says of itself holds of the saved model, measured by the models' own logits.
    saved, data = BaichuanForCausalLM.from_pretrained(tmp_path), pairs(16, seed=1)
    change = logprobs(saved, data) - logprobs(language_model(), data)
    margins = 0.1 * (change[:, 0] - change[:, 1])
    assert summary.margin == pytest.approx(float(margins.mean()), rel=1e-3)
    assert summary.chosen_change == pytest.approx(float(change[:, 0].mean()), rel=1e-3, abs=1e-4)
    loss = float(functional.softplus(-margins).mean())
    assert rows.of("eval_loss")[-1] == pytest.approx(loss, rel=1e-4)


def test_the_first_gradient_is_dpo_s_of_the_normalised_head(tmp_path: Path) -> None:
    # 7 pairs in microbatches of 4: the second has 3, and all count alike.
    data, beta = pairs(7), 0.3
    model = language_model()
    chosen, rejected = (
        sum(
            model(torch.tensor([row["prompt_ids"] + row[f"{kind}_ids"]]))
            .logits[0]
            .log_softmax(dim=-1)[len(row["prompt_ids"]) - 1 : -1]
            .gather(1, torch.tensor(row[f"{kind}_ids"])[:, None])
            .sum()
            for row in data
        )
        for kind in ("chosen", "rejected")
    )
    # At the reference every pair has the weight sigmoid(0) = 1/2.
    (-beta / 2 * (chosen - rejected) / 7).backward()
    squares = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
    rows = Rows()
    run(tmp_path, rows, train=data, beta=beta, max_steps=1)
    assert rows.of("grad_norm")[0] == pytest.approx(squares**0.5, rel=1e-4)


@pytest.mark.parametrize("make", [plain_baichuan, tiny_moss])
def test_an_adapter_on_the_head_learns_and_counts(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss, "CHUNK", 5)
    rows, model = Rows(), make()
    tuning = TuningSection(method="lora", r=4, targets=("lm_head",), dropout=0.1)
    settings = {"tuning": tuning, "max_steps": 4, "eval_every": 1, "microbatch_size": 8}
    data = pairs(8)
    summary = run(tmp_path, rows, model, train=data, evaluation=data, **settings)
    assert model.lm_head.lora_B["default"].weight.abs().max().item() > 1e-3
    assert rows.of("eval_loss")[0] == pytest.approx(0.693147, abs=1e-5)
    # A batch is all the data: a step's loss is the evaluation's before it, here and in TRL's loss.
    assert rows.of("loss") == pytest.approx(rows.of("eval_loss")[:-1], rel=1e-4)

    # By plain logits, adapter on and off; and merged, as it was saved.
    with torch.no_grad():
        change = logprobs(model.eval(), data)
        model.lm_head.enable_adapters(False)
        change = change - logprobs(model, data)
    margins = 0.1 * (change[:, 0] - change[:, 1])
    assert summary.margin == pytest.approx(float(margins.mean()), rel=1e-3)
    assert summary.margin > 1e-3
    saved = type(model).from_pretrained(tmp_path)
    assert torch.allclose(
        logprobs(saved, data) - logprobs(make(), data), change, rtol=1e-3, atol=1e-4
    )


def test_an_adapter_on_a_bfloat16_head_learns_in_float32(tmp_path: Path) -> None:
    model, rows = plain_baichuan().to(torch.bfloat16), Rows()
    tuning = TuningSection(method="lora", r=4, targets=("lm_head",))
    summary = run(tmp_path, rows, model, tuning=tuning)
    product = model.lm_head.lora_B["default"].weight
    assert product.dtype == torch.float32 and product.abs().max().item() > 1e-3
    assert rows.of("eval_accuracy")[0] == 0.0 and summary.accuracy > 0.7


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_resuming_equals_not_stopping(tmp_path: Path, method: Any) -> None:
    head = method == "head"
    kind, targets = ("lora", ("W_pack", "lm_head")) if head else (method, "all-linear")
    settings = {"tuning": TuningSection(method=kind, r=4, targets=targets)}
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def fail(step: int, total: int, fields: dict[str, float]) -> None:
        if step == 8:
            raise KeyboardInterrupt

    def model() -> Any:
        return language_model(norm_head=not head)

    expected = run(whole, MetricsLog(whole), model(), **settings)
    with pytest.raises(KeyboardInterrupt):
        run(parts, MetricsLog(parts), model(), on_log=fail, **settings)
    assert checkpoints(parts) == ["checkpoint-5"]
    assert run(parts, MetricsLog(parts), model(), **settings) == expected
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_flops_count_both_responses_and_the_reference(tmp_path: Path) -> None:
    data = pairs(48)
    tokens = sum(
        2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
        for row in data
    )
    summary = run(tmp_path, max_steps=None, epochs=2)
    assert summary.steps == 12
    parameters = language_model().num_parameters(exclude_embeddings=True)
    assert summary.flops == (6 * 2 + 2) * parameters * tokens


def test_lora_trains_the_adapters_only_and_the_model_comes_back_unpatched(tmp_path: Path) -> None:
    before, model = weights(language_model()), language_model()
    run(tmp_path, model=model, tuning=TuningSection(method="lora", r=4))
    after = weights(BaichuanForCausalLM.from_pretrained(tmp_path))
    kinds = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if any(kind in name for kind in kinds)}
    assert not {"forward", "get_output_embeddings"} & set(vars(model))
    assert not model.training


def test_a_bfloat16_model_learns_in_float32(tmp_path: Path) -> None:
    model, rows = language_model().to(torch.bfloat16), Rows()
    summary = run(tmp_path, rows, model=model)
    assert rows.of("eval_accuracy")[0] == 0.0 and summary.accuracy > 0.7
    assert model.dtype == torch.bfloat16
    saved = BaichuanForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert saved.dtype == torch.bfloat16


def test_it_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    with quiet():
        run(tmp_path, max_steps=2, gradient_checkpointing=True)
        tuning = TuningSection(method="lora", r=2, targets=("lm_head",))
        run(tmp_path / "head", model=plain_baichuan(), max_steps=2, tuning=tuning)
    assert not [each for each in recwarn if "save_embedding_layers" in str(each.message)]
    assert capfd.readouterr() == ("", "")


def test_data_without_pairs_is_refused(tmp_path: Path) -> None:
    empty = pairs(1).select([])
    with pytest.raises(ValueError, match="training"):
        run(tmp_path, train=empty)
    with pytest.raises(ValueError, match="held-out"):
        run(tmp_path, evaluation=empty)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = language_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[6] = float("nan")
    with pytest.raises(FloatingPointError, match="step 0:"):
        run(tmp_path, model=model)
