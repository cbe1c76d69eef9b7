from __future__ import annotations

import pytest
import torch
from transformers import CodeGenConfig, CodeGenForCausalLM

from rlhf.models.max_z import max_z
from rlhf.models.moss.configuration import MossConfig
from rlhf.models.moss.modeling import MossForCausalLM, MossForSequenceClassification
from tests.models.moss.conftest import POSITIONS, SHAPE, official_config, tiny_model

VOCABULARY = 300
IDS = torch.arange(3, 20)[None]


@torch.no_grad()
def test_logits_are_those_of_codegen() -> None:
    model = tiny_model(VOCABULARY)
    config = CodeGenConfig(vocab_size=VOCABULARY, n_positions=POSITIONS, n_ctx=POSITIONS, **SHAPE)
    original = CodeGenForCausalLM(config).eval()
    original.load_state_dict(model.state_dict())
    assert torch.equal(model(IDS).logits, original(IDS).logits)


@torch.no_grad()
def test_left_padding_changes_nothing() -> None:
    model = tiny_model(VOCABULARY)
    padded = torch.cat([torch.full((1, 5), 299), IDS], dim=1)
    mask = (torch.arange(padded.shape[1]) >= 5).long()[None]
    logits = model(padded, attention_mask=mask).logits
    assert logits.isfinite().all()
    assert torch.allclose(logits[:, 5:], model(IDS).logits, atol=1e-5)


@torch.no_grad()
def test_token_by_token_with_the_cache() -> None:
    model, cache, steps = tiny_model(VOCABULARY), None, []
    for index in range(IDS.shape[1]):
        output = model(IDS[:, index : index + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    assert torch.allclose(torch.cat(steps, dim=1), model(IDS).logits, atol=1e-5)


@torch.no_grad()
def test_packed_conversations_are_as_separate_ones() -> None:
    model, cut = tiny_model(VOCABULARY), 7
    places = torch.cat([torch.arange(cut), torch.arange(IDS.shape[1] - cut)])[None]
    packed = model(IDS, position_ids=places, use_cache=False).logits
    separate = torch.cat([model(IDS[:, :cut]).logits, model(IDS[:, cut:]).logits], dim=1)
    assert torch.allclose(packed, separate, atol=1e-5)


@torch.no_grad()
def test_max_z_adds_to_the_loss() -> None:
    model = tiny_model(VOCABULARY)
    plain = model(IDS, labels=IDS)
    model.config.z_loss_weight = 0.01
    weighted = model(IDS, labels=IDS).loss
    assert (weighted - plain.loss).item() == pytest.approx(
        0.01 * max_z(plain.logits).item(), rel=1e-5
    )


@torch.no_grad()
def test_scores_are_read_at_the_last_real_token() -> None:
    torch.manual_seed(1)
    model = MossForSequenceClassification(MossConfig(**official_config(VOCABULARY))).eval()
    padded = torch.cat([IDS, torch.full((1, 4), 299)], dim=1)
    mask = (torch.arange(padded.shape[1]) < IDS.shape[1]).long()[None]
    expected = model.token_scores(IDS)[:, -1:]
    assert torch.equal(model.token_scores(IDS, states_to_keep=1), expected)
    assert torch.allclose(model(padded, attention_mask=mask).logits, expected, atol=1e-6)
    assert torch.allclose(model(IDS).logits, expected, atol=1e-6)


def test_true_size() -> None:
    """34 blocks of (qkv, out, two norms' halves, mlp), embeddings, head with a bias, last norm."""
    with torch.device("meta"):
        model = MossForCausalLM(MossConfig())
    width, inner, vocabulary = 6144, 4 * 6144, 107_008
    block = 4 * width**2 + 2 * width + 2 * width * inner + inner + width
    expected = 34 * block + 2 * vocabulary * width + vocabulary + 2 * width
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("bits", [4, 8])
def test_official_quantised_checkpoints_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"int{bits} .* moss-moon-003-sft .* bitsandbytes"):
        MossConfig(wbits=bits)
