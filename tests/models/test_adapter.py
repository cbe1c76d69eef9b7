from __future__ import annotations

import pytest

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.baichuan.modeling import BaichuanForSequenceClassification
from tests.checkpoints import tiny_model


def test_all_linear_means_the_five_kinds() -> None:
    model = add_lora(tiny_model("baichuan2-7b"), TuningSection(method="lora", r=2), "causal")
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 5 * 2  # layers, kinds, A and B
    assert all("lora_" in name for name in learning)
    kinds = {name.split(".lora_")[0].rpartition(".")[2] for name in learning}
    assert kinds == {"W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("kind", ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"])
def test_any_kind_may_learn_alone(kind: str) -> None:
    tuning = TuningSection(method="lora", r=2, targets=(kind,))
    model = add_lora(tiny_model("baichuan2-13b"), tuning, "causal")
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 2 and all(f".{kind}.lora_" in name for name in learning)


def test_a_reward_models_head_is_trained_whole() -> None:
    model = BaichuanForSequenceClassification(tiny_model("baichuan2-7b").config)
    tuning = TuningSection(method="lora", r=2, targets=("W_pack",))
    adapted = add_lora(model, tuning, "reward")
    learning = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * 2 + 1
    assert [p.shape for name, p in learning.items() if "score" in name] == [(1, 64)]


def test_targets_of_another_architecture() -> None:
    tuning = TuningSection(method="lora", targets=("q_proj", "v_proj"))
    with pytest.raises(ValueError, match="'q_proj'.*W_pack"):
        add_lora(tiny_model("baichuan2-7b"), tuning, "causal")
