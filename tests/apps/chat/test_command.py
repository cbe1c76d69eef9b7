from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from rlhf.apps.chat.command import Sampling, open_conversation
from rlhf.apps.chat.conversation import Conversation
from rlhf.apps.export import import_llama
from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.registry import REGISTRY
from tests.apps.chat.conftest import Script
from tests.llamas import byte_level_tokenizer, write_llama

CPU = {"dtype": torch.float32, "device": "cpu"}
SHIPPED = {"temperature": 0.3, "top_k": 5, "top_p": 0.85, "repetition_penalty": 1.05}
LORA = TuningSection(method="lora", r=4, alpha=8, targets="all-linear")
Checkpoint = Callable[..., Path]
Opened = Callable[..., Conversation]


def shipped() -> GenerationConfig:
    return GenerationConfig(**SHIPPED, do_sample=True, max_new_tokens=2048)


def test_sampling_is_the_checkpoint_s_where_nothing_else_is_said(checkpoint: Checkpoint) -> None:
    path = checkpoint()
    fields = SHIPPED | {"do_sample": True, "max_new_tokens": 64}
    (path / "generation_config.json").write_text(json.dumps(fields))
    config = open_conversation(path, sampling=Sampling()).config
    assert {name: getattr(config, name) for name in fields} == fields
    changed = open_conversation(path, sampling=Sampling(top_k=1, max_new_tokens=8)).config
    assert (changed.top_k, changed.max_new_tokens, changed.temperature) == (1, 8, 0.3)


def test_temperature_0_takes_the_most_likely_token() -> None:
    config = shipped()
    greedy = Sampling(temperature=0).over(config)
    assert greedy.do_sample is False and greedy.repetition_penalty == 1.05
    assert (config.do_sample, config.temperature) == (True, 0.3)


def test_an_option_of_sampling_turns_sampling_on() -> None:
    assert Sampling(top_p=0.5).over(GenerationConfig()).do_sample
    assert not Sampling(repetition_penalty=1.1).over(GenerationConfig()).do_sample


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-13b", "moss"])
def test_two_rounds_with_a_model_that_speaks_for_itself(opened: Opened, architecture: str) -> None:
    conversation = opened(architecture, sampling=Sampling(temperature=0, max_new_tokens=6))
    answers = ["".join(piece.text for piece in conversation.ask(text)) for text in ("你好", "世界")]
    kept = [turn.content for turn in conversation.rounds if turn.role == "assistant"]
    assert kept == [answer for answer in answers if answer.strip()] and kept


@pytest.mark.parametrize("named", ["--adapter", "MODEL"])
def test_an_adapter_speaks(checkpoint: Checkpoint, tmp_path: Path, named: str) -> None:
    base, adapter = checkpoint(), tmp_path / "adapter"
    tuned = add_lora(load_causal_lm(base, **CPU), LORA, "causal")
    for name, part in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, std=0.3)
    tuned.eval().save_pretrained(str(adapter))
    load_tokenizer(base).save_pretrained(str(adapter))
    ids = torch.arange(3, 20)[None]
    options = {"sampling": Sampling(temperature=0, max_new_tokens=4)}
    if named == "MODEL":
        conversation = open_conversation(adapter, **options)
    else:
        conversation = open_conversation(base, adapter=adapter, **options)
    with torch.no_grad():
        torch.testing.assert_close(conversation.model(ids).logits, tuned(ids).logits)
        assert not torch.allclose(
            conversation.model(ids).logits, load_causal_lm(base, **CPU)(ids).logits, atol=0.1
        )
    list(conversation.ask("你好"))


@pytest.mark.parametrize(("load_in", "kind"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_load_in(opened: Opened, load_in: str, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    conversation = opened(load_in=load_in, sampling=Sampling(temperature=0, max_new_tokens=4))
    assert type(conversation.model.base_model.layers[0].self_attn.W_pack).__name__ == kind
    assert list(conversation.ask("你好"))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_directory_in_few_bits_speaks_as_one_that_is_loaded_so(
    checkpoint: Checkpoint, tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    path, out = checkpoint(), tmp_path / "out"
    load_causal_lm(path, **CPU).quantize(bits).save_pretrained(out)
    load_tokenizer(path).save_pretrained(out)
    products = logging.getLogger("bitsandbytes.autograd._functions")
    monkeypatch.setattr(products, "level", logging.NOTSET)
    made_fast: list[object] = []
    monkeypatch.setattr("rlhf.apps.chat.command.fast_products", made_fast.append)
    conversation = open_conversation(out, sampling=Sampling())
    assert products.level == logging.ERROR or bits == 4  # it says so at every product
    assert made_fast == [conversation.model]


@pytest.mark.parametrize(
    ("architecture", "options", "told"),
    [
        ("baichuan2-7b", {"load_in": "2bit"}, "--load-in 2bit: choose 4bit or 8bit"),
        ("baichuan2-7b", {"plugin_names": ["calculator"]}, "only MOSS does"),
        ("moss", {"plugin_names": ["search"]}, "no such plugin; choose calculator"),
        ("baichuan-13b", {"system": "A"}, "no place for a system message"),
        ("moss", {"sampling": Sampling(max_new_tokens=512)}, "leaves no room"),
    ],
)
def test_mistakes(opened: Opened, architecture: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        opened(architecture, **options)
    assert "\n" not in str(caught.value)


def test_a_reward_model_does_not_speak(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base, reward = checkpoint(), tmp_path / "reward"
    model = load_reward_model(base, **CPU)
    save_reward_model(model, load_tokenizer(base), reward, score_mean=None, score_std=None)
    with pytest.raises(ValueError, match="scores answers"):
        open_conversation(reward, sampling=Sampling())


def test_a_first_generation_model_needs_no_system_message(opened: Opened) -> None:
    assert opened("baichuan-7b").system == "" and REGISTRY["baichuan-7b"].system_style == "none"


def test_an_imported_model_speaks_in_the_format_that_it_came_with(tmp_path: Path) -> None:
    write_llama(tmp_path / "llama")
    byte_level_tokenizer().save_pretrained(tmp_path / "llama")
    import_llama(tmp_path / "llama", tmp_path / "ours")
    conversation = open_conversation(tmp_path / "ours", system="Be brief.", sampling=Sampling())
    script = Script(conversation, ["Yes.<|im_end|>"])
    assert "".join(piece.text for piece in conversation.ask("Hello?")) == "Yes."
    written = "<|im_start|>{}\n{}<|im_end|>\n".format
    start = written("system", "Be brief.") + written("user", "Hello?")
    assert script.prompts == [f"{start}<|im_start|>assistant\n"]
