from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from rlhf.config.schema import SamplingSection
from rlhf.generation import Completion, generate, room, slots
from rlhf.models.compiled import compile_training

PAD, EOS, STOP = 0, 2, 7
PROMPTS = [[5, 9, 11], [4], [30, 31, 32, 33, 34, 35], [8, 8], [40, 41, 6, 12]]
GREEDY = SamplingSection(max_new_tokens=24, temperature=0)
SAMPLED = SamplingSection(max_new_tokens=24, temperature=1.0)


def _generate(
    model: PreTrainedModel,
    sampling: SamplingSection,
    prompts: list[list[int]] = PROMPTS,
    *,
    seed: int = 0,
    batch_size: int = 8,
    engine: str = "fast",
) -> list[Completion]:
    return generate(
        model,
        prompts,
        sampling,
        pad_id=PAD,
        eos_id=EOS,
        stop_ids=(STOP,),
        generator=torch.Generator().manual_seed(seed),
        batch_size=batch_size,
        engine=engine,  # type: ignore[arg-type]
    )


def _tokens(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


@pytest.mark.parametrize(
    ("prompts", "most", "expected"),
    [(1, 64, 1), (3, 64, 4), (32, 64, 32), (33, 128, 64), (75, 256, 96), (75, 80, 80), (9, 8, 8)],
)
def test_few_numbers_of_slots_are_compiled_for(
    model: PreTrainedModel, prompts: int, most: int, expected: int
) -> None:
    made = room.decoder(model, [[1]] * prompts, 4, most)
    assert made.slots == expected


@pytest.mark.parametrize(
    ("free", "expected"), [(0, 1), (70, 7), (160, 16), (509, 48), (640, 64), (9999, 64)]
)
def test_where_memory_limits_them_they_are_few_numbers_too(free: int, expected: int) -> None:
    """Of 8 bytes each, in 0.8 of what is free; 64 are wanted."""
    assert room.fitting(64, free, size=8) == expected


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_blocks_compiled_for_training_sample_as_they_are(
    model: PreTrainedModel, engine: str
) -> None:
    """With a cache, which knows its layer, each of them would be compiled for itself."""
    expected = _tokens(_generate(model, GREEDY, engine=engine))
    compile_training(model)
    torch._dynamo.utils.counters.clear()
    assert _tokens(_generate(model, GREEDY, engine=engine)) == expected
    assert not torch._dynamo.utils.counters["stats"]


@torch.no_grad()
def _recomputed(model: PreTrainedModel, prompt: list[int], response: Completion) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *response.token_ids]])).logits[0]
    predictions = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return predictions[range(len(response.token_ids)), list(response.token_ids)]


@pytest.mark.parametrize("penalty", [1.0, 1.4])
@pytest.mark.parametrize("engine", ["fast", "slots"])
def test_engines_agree_under_greedy(model: PreTrainedModel, penalty: float, engine: str) -> None:
    sampling = GREEDY.model_copy(update={"repetition_penalty": penalty})
    # transformers penalises the padding too, so a penalty is compared without any
    batch_size = 8 if penalty == 1 else 1
    fast = _generate(model, sampling, batch_size=batch_size, engine=engine)
    plain = _generate(model, sampling, batch_size=batch_size, engine="plain")
    assert _tokens(fast) == _tokens(plain)
    assert [c.stop_reason for c in fast] == [c.stop_reason for c in plain]
    for ours, theirs in zip(fast, plain, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


@pytest.mark.parametrize("engine", ["fast", "slots", "plain"])
def test_logprobs_are_of_the_policy_whatever_the_sampling(
    model: PreTrainedModel, engine: str
) -> None:
    sampling = SamplingSection(
        max_new_tokens=12, temperature=0.5, top_k=5, top_p=0.7, repetition_penalty=1.2
    )
    for prompt, completion in zip(PROMPTS, _generate(model, sampling, engine=engine), strict=True):
        expected = _recomputed(model, prompt, completion)
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("engine", ["fast", "slots", "plain"])
def test_a_seed_gives_the_same_tokens(model: PreTrainedModel, engine: str) -> None:
    first = _generate(model, SAMPLED, engine=engine)
    torch.rand(3)  # the global generator has no part in it
    assert _generate(model, SAMPLED, engine=engine) == first
    assert _tokens(_generate(model, SAMPLED, engine=engine, seed=1)) != _tokens(first)


def test_plain_leaves_the_global_generator_alone(model: PreTrainedModel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    _generate(model, SAMPLED, engine="plain")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("engine", ["fast", "slots"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_tokens_do_not_depend_on_the_batch(
    model: PreTrainedModel, engine: str, batch_size: int
) -> None:
    prompts = PROMPTS * 8
    whole = _generate(model, SAMPLED, prompts, batch_size=40)
    assert len({len(tokens) for tokens in _tokens(whole)}) > 5  # rows were dropped on the way
    parts = _generate(model, SAMPLED, prompts, batch_size=batch_size, engine=engine)
    assert _tokens(parts) == _tokens(whole)


def test_prompts_that_are_read_in_several_passes(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _generate(model, SAMPLED, PROMPTS * 3, engine="slots")
    monkeypatch.setattr(slots, "FILL_TOKENS", 7)
    assert _tokens(_generate(model, SAMPLED, PROMPTS * 3, engine="slots")) == _tokens(whole)


@pytest.mark.parametrize("engine", ["fast", "slots"])
def test_every_sampling_option_gives_the_same_with_both_fast_engines(
    model: PreTrainedModel, engine: str
) -> None:
    sampling = SamplingSection(
        max_new_tokens=24, temperature=0.8, top_k=9, top_p=0.9, repetition_penalty=1.3
    )
    alone = [_generate(model, sampling, [prompt])[0] for prompt in PROMPTS[:1]]
    together = _generate(model, sampling, PROMPTS, engine=engine)
    assert _tokens(alone) == _tokens(together[:1])


@pytest.mark.parametrize("engine", ["fast", "slots", "plain"])
def test_stop_reasons(model: PreTrainedModel, engine: str) -> None:
    completions = _generate(model, SAMPLED, PROMPTS * 8, engine=engine)
    assert {c.stop_reason for c in completions} == {"eos", "stop", "length"}
    for completion in completions:
        *body, last = completion.token_ids
        assert EOS not in body and STOP not in body
        assert len(completion.logprobs) == len(completion.token_ids) <= 24
        if completion.stop_reason == "length":
            assert len(completion.token_ids) == 24 and last not in (EOS, STOP)
        else:
            assert last == {"eos": EOS, "stop": STOP}[completion.stop_reason]


@pytest.mark.parametrize("engine", ["fast", "slots", "plain"])
def test_sampled_distribution_is_the_models(model: PreTrainedModel, engine: str) -> None:
    draws = 4000
    sampling = SamplingSection(max_new_tokens=1, temperature=1.5, top_k=6)
    completions = _generate(model, sampling, [[5, 9, 11]] * draws, batch_size=1000, engine=engine)
    counts = torch.tensor([c.token_ids[0] for c in completions]).bincount(minlength=50)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 9, 11]])).logits[0, -1] / 1.5
    top = logits.topk(6)
    expected = torch.zeros(50).index_put((top.indices,), top.values.softmax(0)) * draws
    assert counts[expected == 0].sum() == 0
    chi_square = ((counts - expected).square() / expected)[expected > 0].sum()
    assert chi_square < 20.5  # 5 degrees of freedom, one in a thousand


def test_no_prompts_and_an_empty_prompt(model: PreTrainedModel) -> None:
    assert _generate(model, GREEDY, []) == []
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        _generate(model, GREEDY, [[1], []])


def test_no_further_than_the_context(model: PreTrainedModel) -> None:
    """Of 128 tokens. MOSS has no positions behind its own; RoPE and ALiBi would go on blindly."""
    assert len(_generate(model, GREEDY, [[5] * 104])) == 1
    with pytest.raises(ValueError, match="prompt 1 has 105 tokens.*24 are more than the 128") as e:
        _generate(model, GREEDY, [[5], [5] * 105])
    assert "\n" not in str(e.value)
