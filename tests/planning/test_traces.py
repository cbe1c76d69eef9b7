from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlhf.config.schema import TuningSection
from rlhf.models.registry import named
from rlhf.planning import traces
from rlhf.planning.traces import Learning
from tests.planning.sizes import SMALL

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "layers", "heads")
LORA = TuningSection(method="lora", r=2)


def learning(**changes) -> Learning:
    usual = Learning(SMALL, "causal", LORA, torch.bfloat16, True, "autocast", True)
    return replace(usual, **changes)


def total(kinds) -> int:
    return sum(kinds.values())


def sft(chunk=None, **changes):
    return traces.sft_step(learning(**changes), 2, 256, True, chunk, 2e-4)


def test_two_layers_tell_of_five(monkeypatch):
    """A layer more holds its adapters' copies and, of all it computes, the state it began with."""
    peaks, look = {}, traces._peak

    def remembered(who, work, layers, learns):
        for depth in (layers, 5):
            peaks[depth] = peaks.get(depth) or total(look(who, work, depth, learns))
        return {"activations": peaks[layers]}

    monkeypatch.setattr(traces, "_peak", remembered)
    reckoned = total(traces.sft_step.__wrapped__(learning(), 2, 256, True, None, 2e-4))
    assert reckoned == pytest.approx(peaks[5], rel=0.01)
    state, copies = 2 * 256 * 64 * 2, 2 * 2 * ((64 + 192) + 2 * 64 + 3 * (64 + 96))
    assert state <= (peaks[5] - peaks[2]) / 3 <= state + copies + 512 * 12


def test_checkpointing_saves_memory():
    assert total(sft(chunk=64)) < total(sft(chunk=64, checkpointing=False)) / 2


def test_shared_prompts_are_kept_once():
    reward = learning(task="reward", checkpointing=False)
    shared, separate = (traces.rm_step(reward, 1, 4, (192, 64), share) for share in (True, False))
    assert total(shared) < 0.7 * total(separate)


def test_packed_weights_are_unpacked_one_at_a_time():
    """A product with 4-bit weights needs that layer's plain ones beside what bfloat16 needs."""
    largest = 3 * 64 * 64 * 2
    short = {"rows": 1, "length": 8}
    plain, packed = (
        traces.trunk_step(learning(tuning=tuning, under="ppo"), **short)
        for tuning in (LORA, LORA.model_copy(update={"method": "qlora"}))
    )
    assert 0 < total(packed) - total(plain) <= 2 * largest


def test_ppo_keeps_the_logits_of_responses_alone():
    actor = learning(under="ppo", spec=replace(SMALL, vocab_size=8000))
    half, whole = (traces.actor_step(actor, 2, (256 - r, r)) for r in (64, 128))
    assert half["logits"] == pytest.approx(whole["logits"] / 2, rel=0.02)


@pytest.mark.parametrize("under", ["deepspeed", "autocast"])
def test_full_tuning_casts_every_weight_under_autocast_alone(under):
    full = learning(tuning=TuningSection(method="full"), under=under, checkpointing=False)
    kinds = traces.sft_step(full, 1, 64, False, None, 0.0)
    blocks = 5 * (4 * 64**2 + 3 * 64 * 96)
    assert (kinds.get("weights", 0) >= 2 * blocks) == (under == "autocast")


def test_compiled_blocks_keep_their_products():
    """Of a token: its state, query, key and value, the first two turned as well, attention's output
    with a number for each of 4 heads, its projection, and the two halves of the feed-forward."""
    full = learning(tuning=TuningSection(method="full"), under="deepspeed", checkpointing=False)
    deeper = replace(SMALL, layers=SMALL.layers + 1)

    def layer(compiled, budget=1.0) -> float:
        who = replace(full, compiled=compiled, activation_budget=budget)
        one, more = (
            total(traces.sft_step(replace(who, spec=spec), 1, 512, False, 64, 0))
            for spec in (SMALL, deeper)
        )
        return (more - one) / (2 * 256)

    own = 2 * (3 * 64 + 2 * 64 + 64 + 64 + 2 * 96) + 4 * 4
    assert layer("blocks") == 2 * 64 + own
    assert layer("blocks") < 0.6 * layer(None)
    # Of 1,296 bytes 907 at most: without what was turned (256), the numbers (16), a state (128).
    assert layer("blocks", budget=0.7) == 2 * 64 + own - 256 - 16 - 128


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapted_head_has_a_chunk_of_logits(checkpointing):
    """Of 512 tokens at a time, however many there are, in float32: their log-softmax, its gradient
    and theirs. What the trunk keeps for its own backward pass is there beside them."""
    spec = replace(named("baichuan-7b"), **{name: getattr(SMALL, name) for name in SIZES})
    tuning = TuningSection(method="lora", r=2, targets=("W_pack", "lm_head"))
    who = learning(spec=spec, tuning=tuning, checkpointing=checkpointing)
    one, two = (traces.adapted_head_step(who, rows, (256, 1024)) for rows in (1, 2))
    assert one["logits"] == two["logits"] == 512 * 1000 * 3 * 4
    fused = traces.trunk_step(who, 2, 1280)
    assert "logits" not in fused and total(two) > total(fused)
