from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.models.sampling import check_sampling

ASKED = [{"role": "user", "content": "你好"}]
VOCABULARY = 320


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"bad_words_ids": [[5, 320]]}, "bad_words_ids.0.1 is 320, and should be below 320, the"),
        ({"forced_bos_token_id": "x"}, "forced_bos_token_id.0 is 'x', and should be a valid int"),
        ({"forced_eos_token_id": 320}, "forced_eos_token_id.0 is 320, and should be below 320"),
        ({"forced_eos_token_id": []}, "forced_eos_token_id is .*at least 1 item"),
        ({"cache_implementation": "offloaded"}, "should be 'dynamic' or 'static'"),
        ({"cache_implementation": "quantized"}, "should be 'dynamic' or 'static'"),
        ({"sequence_bias": {"x": 1}}, "sequence_bias is {'x': 1}, and should be a valid list"),
        ({"sequence_bias": [[[1], 2]]}, "sequence_bias.0.1 is 2, .*with a decimal point"),
        ({"sequence_bias": {(320,): 1.0}}, "sequence_bias.0.0.0 is 320, and should be below"),
        ({"exponential_decay_length_penalty": "x"}, "length_penalty is 'x', and should be a valid"),
        ({"exponential_decay_length_penalty": [1]}, "length_penalty.1 is .*required"),
        ({"guidance_scale": "x"}, "guidance_scale is 'x', and should be a valid number"),
        ({"decoder_start_token_id": "x"}, "decoder_start_token_id.0 is 'x', and should be"),
    ],
)
def test_what_fails_at_the_first_question_is_told(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^file: .*{told}.*; correct it$"):
        check_sampling(GenerationConfig(**fields), "file", VOCABULARY)


@pytest.mark.parametrize("fields", [{"min_p": 2.0}, {"min_p": "0.1"}, {"temperature": -1.0}])
def test_what_counts_where_tokens_are_drawn(fields: dict[str, Any]) -> None:
    check_sampling(GenerationConfig(**fields), "file", VOCABULARY)
    with pytest.raises(ValueError, match=f"file: {next(iter(fields))} is "):
        check_sampling(GenerationConfig(**fields), "file", VOCABULARY, drawn=True)


def test_a_temperature_of_0_is_greedy_where_nothing_else_is_said() -> None:
    check_sampling(GenerationConfig(temperature=0.0), "file", VOCABULARY, drawn=True)
    with pytest.raises(ValueError, match="temperature is 0.0"):
        check_sampling(GenerationConfig(temperature=0.0, do_sample=True), "file", VOCABULARY)


@pytest.mark.parametrize(
    "fields",
    [
        {"bad_words_ids": [[5]], "forced_eos_token_id": 2, "bos_token_id": 1},
        {"sequence_bias": [[[5], 2.0]], "exponential_decay_length_penalty": [1, 1.1]},
        {"sequence_bias": {(5, 6): -2.0}, "guidance_scale": 1.5},
        {"cache_implementation": "dynamic", "forced_bos_token_id": [1]},
    ],
)
def test_what_transformers_can_do_stays(
    checkpoint: Callable[..., Path], fields: dict[str, Any]
) -> None:
    path = checkpoint()
    model: Any = load_causal_lm(path, dtype=torch.float32, device="cpu")
    config = GenerationConfig(max_new_tokens=3, **fields)
    assert isinstance(model.chat(load_tokenizer(path), ASKED, generation_config=config), str)


@pytest.mark.parametrize("architecture", ["baichuan2-7b", "baichuan-13b"])
def test_a_static_cache_gives_the_same_answer(
    checkpoint: Callable[..., Path], architecture: str
) -> None:
    path = checkpoint(architecture)
    model: Any = load_causal_lm(path, dtype=torch.float32, device="cpu")
    answers = {
        model.chat(
            load_tokenizer(path),
            ASKED,
            generation_config=GenerationConfig(max_new_tokens=8, cache_implementation=name),
        )
        for name in (None, "static")
    }
    assert len(answers) == 1


def test_what_a_version_of_transformers_does_not_know_is_not_asked_for() -> None:
    config = GenerationConfig(top_p=0.5)
    del config.penalty_alpha
    check_sampling(config, "file", VOCABULARY, drawn=True)
