import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from rlhf.config.schema import OptimiserSection
from rlhf.runtime.quiet import quiet
from rlhf.training import common
from rlhf.training.common import arguments, prepare
from tests.training.worlds import language_model, sft_section


def settings(**changes: Any) -> dict[str, Any]:
    return arguments(sft_section(**changes), language_model(), output_dir=Path("out"), seed=3)


def rates(steps: int, **optimiser: Any) -> list[float]:
    section = OptimiserSection(learning_rate=1.0, **optimiser)
    args = TrainingArguments(**settings(optimiser=section))
    weight = torch.nn.Parameter(torch.zeros(1))
    schedule = get_scheduler(
        args.lr_scheduler_type,
        torch.optim.SGD([weight], lr=args.learning_rate),
        int(args.warmup_steps),
        steps,
        args.lr_scheduler_kwargs,
    )
    found = []
    for _ in range(steps + 1):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_schedules_warm_up_and_end_at_their_minimum() -> None:
    assert rates(6, schedule="linear", warmup_steps=2, minimum=0.2) == pytest.approx(
        [0.0, 0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    )
    assert rates(4, schedule="cosine", minimum=0.5) == pytest.approx(
        [1.0, 0.75 + 0.25 * 0.5**0.5, 0.75, 0.75 - 0.25 * 0.5**0.5, 0.5]
    )
    assert rates(4, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert rates(3, schedule="constant", warmup_steps=1, minimum=0.3) == [0.0, 1.0, 1.0, 1.0]
    assert rates(2, schedule="linear", minimum=1.0) == [1.0, 1.0, 1.0]


def test_the_optimiser_is_the_section_s() -> None:
    optimiser = OptimiserSection(beta1=0.8, beta2=0.9, weight_decay=0.1, grad_clip=0.5)
    args = TrainingArguments(**settings(optimiser=optimiser, batch_size=12, microbatch_size=4))
    assert (args.adam_beta1, args.adam_beta2, args.weight_decay) == (0.8, 0.9, 0.1)
    assert args.max_grad_norm == 0.5
    assert args.label_smoothing_factor == 0
    assert args.gradient_accumulation_steps == 3
    assert args.report_to == [] and args.disable_tqdm and not args.push_to_hub
    assert not args.bf16 and not args.fp16


@pytest.mark.parametrize("first", [True, False])
def test_no_process_is_louder_than_it_was(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    args = TrainingArguments(**settings())
    monkeypatch.setattr(TrainingArguments, "should_log", first)
    with quiet():
        assert args.get_process_log_level() == logging.ERROR


def test_computing_follows_the_model_and_learning_is_in_float32() -> None:
    model = language_model().to(torch.bfloat16)
    assert arguments(sft_section(), model, output_dir=Path("out"), seed=0)["bf16"]
    prepared = prepare(model, sft_section(), "causal", 0)
    assert {parameter.dtype for parameter in prepared.parameters()} == {torch.float32}


def test_deepspeed_keeps_the_weights_in_float32_itself() -> None:
    model = language_model().to(torch.bfloat16)
    prepared = prepare(model, sft_section(), "causal", 0, {"zero_optimization": {"stage": 3}})
    assert {parameter.dtype for parameter in prepared.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="it is installed")
def test_eight_bit_optimiser_names_its_extra() -> None:
    with pytest.raises(ValueError, match=r"baichuan-rlhf\[gpu\]"):
        settings(optimiser=OptimiserSection(kind="adamw-8bit"))


def test_on_a_gpu_the_optimiser_is_fused() -> None:
    for kind, name in (("cpu", "adamw_torch"), ("cuda", "adamw_torch_fused")):
        assert common.optimiser_name(OptimiserSection(), torch.device(kind)) == name


def test_a_process_takes_one_gpu_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    args = TrainingArguments(**settings(batch_size=12, microbatch_size=4))
    monkeypatch.setattr(args, "_n_gpu", 8)
    assert args.train_batch_size == 32
    assert common.for_one_gpu(args).train_batch_size == 4
