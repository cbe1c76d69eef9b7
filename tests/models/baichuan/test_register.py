from __future__ import annotations

import pickle
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
    TextGenerationPipeline,
    pipeline,
)

import rlhf.models  # noqa: F401
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM, BaichuanForSequenceClassification
from rlhf.models.baichuan.trunk import BaichuanModel
from tests.checkpoints import ARCHITECTURES, tiny_model


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


def test_custom_generate_and_custom_pipelines_are_not_run(checkpoint: Callable[..., Path]) -> None:
    """What `generate` and `pipeline` would run of a directory, were it not for the native class."""
    path = checkpoint(custom_pipelines={"text-generation": {"impl": "modeling_baichuan.Pipe"}})
    (path / "custom_generate").mkdir()
    (path / "custom_generate/generate.py").write_text("raise SystemExit('remote code has run')\n")
    for kind in (AutoModelForCausalLM, BaichuanForCausalLM):
        model = kind.from_pretrained(path, trust_remote_code=True)
        assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=2).shape == (1, 4)
    assert type(pipeline("text-generation", str(path), trust_remote_code=True)) is (
        TextGenerationPipeline
    )


class Payload:
    """Pickled, it asks whoever unpickles it to make a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


def test_a_bin_file_is_read_as_weights_only(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("baichuan-7b")
    weights = dict(tiny_model("baichuan-7b").state_dict())
    torch.save(weights | {"more": Payload(path / "ran")}, path / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError, match="[Ww]eights.only"):
        AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
    assert not (path / "ran").exists()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'peft'}"
    code = f"import sys, rlhf; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[3]
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"
