from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from rlhf.config.base import OptimiserSection
from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import RuntimeSection, SFTSection
from rlhf.training import engine
from rlhf.training.engine import check_processes, engine_config, fit_buckets, read_engine

PACKAGED = sorted(path.stem for path in resource("configs/deepspeed").glob("*.json"))
SECTION = SFTSection(
    batch_size=24, microbatch_size=4, optimiser=OptimiserSection(grad_clip=0.25, weight_decay=0.1)
)


def read(name: str) -> Any:
    pytest.importorskip("deepspeed")
    return read_engine(RuntimeSection(device="cpu", deepspeed=name))


def without_auto(value: Any) -> Any:
    """What the Trainer fills in from the model is left to DeepSpeed's defaults."""
    if not isinstance(value, dict):
        return value
    return {key: without_auto(inner) for key, inner in value.items() if inner != "auto"}


@pytest.mark.parametrize("name", PACKAGED)
def test_deepspeed_takes_the_packaged_configurations_with_our_values(name: str) -> None:
    given = read(name)
    from deepspeed.runtime.config import DeepSpeedConfig

    values = without_auto(engine_config(given, SECTION, 6, "bf16", universal=False))
    config = DeepSpeedConfig(values)
    assert config.gradient_clipping == 0.25
    assert config.train_micro_batch_size_per_gpu == 4
    assert config.gradient_accumulation_steps == 6
    assert config.bfloat16_config.enabled and not config.float16_config.enabled
    assert config.zero_config.stage == given["zero_optimization"]["stage"]
    assert config.zero_config.overlap_comm
    offload = config.zero_config.offload_optimizer
    assert (offload is not None and offload.device == "cpu") == ("offload" in name)
    assert config.zero_config.zero_hpz_partition_size == (8 if "hpz" in name else 1)


def test_no_bucket_larger_than_what_learns() -> None:
    """4 + 3 weights learn; of a spread one DeepSpeed keeps how many there are."""
    model = nn.Sequential(nn.Linear(4, 1), nn.Linear(9, 9))
    model[0].bias = nn.Parameter(torch.empty(0))
    model[0].bias.ds_numel = 3  # type: ignore[assignment]
    model[1].requires_grad_(False)
    for given, size in ((500_000_000, 7), (6, 6), ("auto", "auto")):
        zero: dict[str, Any] = {"reduce_bucket_size": given}
        fit_buckets(zero, model)
        assert zero == {"reduce_bucket_size": size}
    fit_buckets(zero := {}, model)
    assert zero == {"reduce_bucket_size": 7}


@pytest.mark.parametrize(
    "path", resource("configs/accelerate").glob("*.yaml"), ids=lambda p: p.stem
)
def test_accelerate_takes_its_configurations(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == 8 * config.num_machines
    assert set(yaml.safe_load(path.read_text())) <= set(vars(config))


def test_no_engine_without_a_name() -> None:
    assert read_engine(RuntimeSection()) is None


def test_a_configuration_that_says_what_ours_says(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"gradient_clipping": 1.0, "zero_optimization": {"stage": 2}}))
    with pytest.raises(ValueError, match="own.json: gradient_clipping follow from"):
        read(str(path))
    path.write_text("{")
    with pytest.raises(ValueError, match="is no JSON file"):
        read(str(path))
    with pytest.raises(ValueError, match="zero9 is not there; .* zero2, zero3, zero3_hpz"):
        read("zero9")


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'baichuan-rlhf\[deepspeed\]'"):
        read_engine(RuntimeSection(deepspeed="zero2"))


def check(*overrides: str) -> None:
    check_processes(load_config("tiny", ["runtime.device=cpu", *overrides]), ["sft", "rm"])


def test_processes_that_do_not_divide_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "world_size", lambda: 3)
    check("sft.batch_size=24", "rm.microbatch_size=1", "rm.batch_size=3")
    with pytest.raises(ValueError, match=r"sft.batch_size / .* = 4 is not .* = 3; set .* 2 or 4"):
        check("sft.batch_size=32")


def test_what_does_not_go_with_spread_weights() -> None:
    pytest.importorskip("deepspeed")
    check("runtime.deepspeed=zero2", "rm.tuning.method=qlora", "sft.loss_chunk=64")
    with pytest.raises(ValueError, match="rm.tuning.method is qlora, but ZeRO-3"):
        check("runtime.deepspeed=zero3", "rm.tuning.method=qlora")
    with pytest.raises(ValueError, match="sft.loss_chunk does not work with ZeRO-3"):
        check("runtime.deepspeed=zero3", "sft.loss_chunk=64")
    with pytest.raises(ValueError, match="dpo does not run under ZeRO-3"):
        check_processes(load_config("tiny", ["runtime.deepspeed=zero3", "dpo={}"]), ["dpo"])


def test_what_does_not_go_with_an_optimiser_on_the_cpu() -> None:
    pytest.importorskip("deepspeed")
    with pytest.raises(ValueError, match="rm.optimiser.kind is adamw-8bit, which is for GPUs"):
        check("runtime.deepspeed=zero3_offload", "rm.optimiser.kind=adamw-8bit")
