from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

import rlhf.models  # noqa: F401
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM, BaichuanForSequenceClassification
from rlhf.models.baichuan.trunk import BaichuanModel
from tests.models.conftest import ARCHITECTURES, tiny_model


@pytest.mark.parametrize("trusting", [None, False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_auto_classes_run_no_remote_code(
    checkpoint: Callable[..., Path], architecture: str, trusting: bool | None
) -> None:
    path, trust = checkpoint(architecture), {"trust_remote_code": trusting}
    assert type(AutoConfig.from_pretrained(path, **trust)) is BaichuanConfig
    assert type(AutoModel.from_pretrained(path, **trust)) is BaichuanModel
    model = AutoModelForCausalLM.from_pretrained(path, **trust)
    assert type(model) is BaichuanForCausalLM
    ids = torch.arange(3, 20)[None]
    expected = tiny_model(architecture)(ids).logits
    assert torch.allclose(model(ids).logits, expected, atol=1e-5)
    scorer = AutoModelForSequenceClassification.from_pretrained(path, **trust)
    assert type(scorer) is BaichuanForSequenceClassification
    assert scorer.score.weight.shape == (1, model.config.hidden_size)
    assert torch.equal(scorer.model.norm.weight, model.model.norm.weight)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'peft'}"
    code = f"import sys, rlhf; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[3]
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"
