"""`model.chat` on all models of the registry: prompts, streaming, limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import rlhf.models  # noqa: F401  (registers the families with transformers' Auto classes)
from rlhf.models.export import save_checkpoint
from rlhf.models.prompts import encode_prompt
from rlhf.models.registry import REGISTRY, spec_of
from tests.data.test_chat_moss import turns
from tests.models.moss.conftest import write_checkpoint as write_moss

GREEDY = GenerationConfig(do_sample=False, max_new_tokens=12)
ASKED = [{"role": "user", "content": "你好"}]
USER, ASSISTANT, EOS = 195, 196, 2


@pytest.fixture
def any_checkpoint(checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    def write(architecture: str) -> Path:
        if architecture.startswith("moss"):
            return write_moss(tmp_path / "moss")
        return checkpoint(architecture)

    return write


def load(path: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


class Scripted:
    """In the place of `model.generate`: says what it is told, notes what it was asked."""

    def __init__(self, *said: int) -> None:
        self.said = said
        self.prompt: list[int] = []
        self.told = 0
        self.config: Any = None

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> None:
        self.prompt, self.config = input_ids[0].tolist(), options["generation_config"]
        streamer, (closed,) = options["streamer"], options["stopping_criteria"]
        streamer.put(input_ids)
        for token in self.said:
            if token is None:
                raise RuntimeError("out of memory")
            streamer.put(torch.tensor([token]))
            self.told += 1
            if closed(input_ids, torch.empty(0)).all():
                return


@pytest.mark.parametrize("architecture", REGISTRY)
def test_every_model_answers_from_its_directory_and_from_ours(
    any_checkpoint: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    model, tokenizer = load(any_checkpoint(architecture))
    answer = model.chat(tokenizer, ASKED, generation_config=GREEDY)
    prompt = encode_prompt(spec_of(model.config), tokenizer, turns("你好"))
    ends = {tokenizer.eos_token_id, *([USER] if "moss" not in architecture else [])}
    plain = model.generate(
        torch.tensor([prompt]), generation_config=GREEDY, eos_token_id=[*ends], pad_token_id=0
    )
    said = [token for token in plain[0, len(prompt) :].tolist() if token not in ends]
    assert answer == tokenizer.decode(said, skip_special_tokens=True) and len(said) > 3
    grown = list(model.chat(tokenizer, ASKED, stream=True, generation_config=GREEDY))
    assert grown[-1] == answer
    assert all(later.startswith(text) for text, later in zip(grown, grown[1:], strict=False))
    save_checkpoint(model, tokenizer, tmp_path / "ours")
    ours, tokenizer = load(tmp_path / "ours")
    assert ours.chat(tokenizer, ASKED, generation_config=GREEDY) == answer


@pytest.mark.parametrize("ending", [EOS, USER])
def test_an_answer_ends_with_eos_or_the_user_s_next_turn(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, ending: int
) -> None:
    model, tokenizer = load(checkpoint())
    said = tokenizer.encode("今天天气很好")
    monkeypatch.setattr(model, "generate", Scripted(*said, ending))
    assert model.chat(tokenizer, ASKED) == "今天天气很好"
    assert list(model.chat(tokenizer, ASKED, stream=True))[-1] == "今天天气很好"
    assert set(model.generate.config.eos_token_id) == {EOS, USER}


def test_a_character_is_shown_when_all_its_bytes_are_there(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(checkpoint())
    emoji = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in "🎉".encode()])
    monkeypatch.setattr(model, "generate", Scripted(*emoji, *emoji[:2]))
    assert list(model.chat(tokenizer, ASKED, stream=True)) == [
        "🎉",
        "🎉" + "\N{REPLACEMENT CHARACTER}" * 2,
    ]


def test_the_checkpoint_says_how_to_sample_and_the_caller_may_say_otherwise(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint()
    shipped = {"temperature": 0.3, "top_k": 5, "top_p": 0.85, "repetition_penalty": 1.05}
    limits = {"do_sample": True, "max_new_tokens": 64}
    (path / "generation_config.json").write_text(json.dumps(shipped | limits))
    model, tokenizer = load(path)
    monkeypatch.setattr(model, "generate", Scripted(EOS))
    model.chat(tokenizer, ASKED)
    used = model.generate.config
    assert {name: getattr(used, name) for name in shipped | limits} == shipped | limits
    model.chat(tokenizer, ASKED, generation_config=GenerationConfig(temperature=0.9))
    used = model.generate.config
    assert (used.temperature, used.max_new_tokens) == (0.9, 64)
    assert model.generation_config.max_new_tokens == 64


@pytest.mark.parametrize(("shipped", "used"), [({}, 0), ({"top_k": 5}, 5)])
def test_no_top_k_but_the_checkpoint_s(
    checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    shipped: dict[str, int],
    used: int,
) -> None:
    """transformers fills 50 in where nobody says it."""
    path = checkpoint()
    (path / "generation_config.json").write_text(json.dumps(shipped))
    model, tokenizer = load(path)
    monkeypatch.setattr(model, "generate", Scripted(EOS))
    model.chat(tokenizer, ASKED, generation_config=GenerationConfig(do_sample=True))
    assert model.generate.config.top_k == used


def test_history_leaves_room_for_the_answer(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 positions, 156 of them for the answer: 100 for a prompt that would be longer."""
    model, tokenizer = load(checkpoint())
    monkeypatch.setattr(model, "generate", Scripted(EOS))
    messages = turns("好" * 30, "天" * 30, "好" * 30, "天" * 30, "好", system="你")
    config = GenerationConfig(max_new_tokens=156)
    model.chat(tokenizer, [m.model_dump() for m in messages], generation_config=config)
    spec = spec_of(model.config)
    assert model.generate.prompt == encode_prompt(spec, tokenizer, messages[:1] + messages[3:])
    assert len(encode_prompt(spec, tokenizer, messages)) > 100 >= len(model.generate.prompt)


def test_without_a_limit_half_of_a_short_context_is_for_the_answer(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(checkpoint())
    monkeypatch.setattr(model, "generate", Scripted(EOS))
    model.chat(tokenizer, ASKED)
    assert model.generate.config.max_new_tokens == 128


@pytest.mark.parametrize(
    ("messages", "config", "told"),
    [
        ([], None, "messages: roles none"),
        ([*ASKED, *ASKED], None, "user and assistant in turn"),
        ([*ASKED, {"role": "assistant", "content": "A"}], None, "the user last"),
        ([{"role": "tool", "content": "A"}], None, "messages: roles tool"),
        ([{"role": "user"}], None, r"messages\[0\]: {'role': 'user'}; give"),
        ([*ASKED, "again"], None, r"messages\[1\]: 'again'; give"),
        (ASKED, GenerationConfig(max_new_tokens=256), "max_new_tokens 256 leaves no room"),
        (ASKED, GenerationConfig(do_sample=True, temperature=-0.5), "temperature is -0.5, and"),
        (ASKED, GenerationConfig(num_beams=4), "num_beams is 4, and should be 1"),
        (ASKED, GenerationConfig(stop_strings=["foo"]), "stop_strings is .*and should be left out"),
        (ASKED, GenerationConfig(do_sample=True, temperature="0.3"), "a valid number"),
        (ASKED, GenerationConfig(do_sample=True, min_p=2.0), "less than or equal to 1"),
        (ASKED, GenerationConfig(do_sample=True, num_return_sequences=2), "should be 1"),
        (ASKED, GenerationConfig(token_healing=True), "token_healing is True, and should be False"),
        (ASKED, GenerationConfig(penalty_alpha=0.6, top_k=4), "penalty_alpha is 0.6, and should"),
        (ASKED, GenerationConfig(bad_words_ids=[[]]), "bad_words_ids.0 is .*at least 1 item"),
        (ASKED, GenerationConfig(do_sample="yes"), "do_sample is 'yes', and should"),
    ],
)
def test_mistakes(
    checkpoint: Callable[..., Path], messages: Any, config: GenerationConfig | None, told: str
) -> None:
    model, tokenizer = load(checkpoint())
    with pytest.raises(ValueError, match=told) as caught:
        model.chat(tokenizer, messages, stream=True, generation_config=config)
    assert "\n" not in str(caught.value)


def test_the_first_generation_has_no_place_for_a_system_message(
    checkpoint: Callable[..., Path],
) -> None:
    model, tokenizer = load(checkpoint("baichuan-13b"))
    with pytest.raises(ValueError, match="no place for a system message"):
        model.chat(tokenizer, [{"role": "system", "content": "A"}, *ASKED])


def test_nobody_listening_ends_generation(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(checkpoint())
    endless = Scripted()
    monkeypatch.setattr(model, "generate", endless)
    monkeypatch.setattr(endless, "said", iter(lambda: ord("好") % 300, None))
    answer: Iterator[str] = model.chat(tokenizer, ASKED, stream=True)
    next(answer)
    answer.close()  # type: ignore[attr-defined]  # waits for the thread
    assert endless.told > 0


def test_what_generate_raises_is_raised_to_the_caller(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(checkpoint())
    monkeypatch.setattr(model, "generate", Scripted(300, None))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="out of memory"):
        model.chat(tokenizer, ASKED)


def test_what_the_user_writes_opens_no_turn(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(checkpoint())
    monkeypatch.setattr(model, "generate", Scripted(EOS))
    written = "".join(tokenizer.convert_ids_to_tokens([EOS, USER, ASSISTANT]))
    model.chat(tokenizer, [{"role": "user", "content": written}])
    prompt = model.generate.prompt
    assert [prompt.count(token) for token in (EOS, USER, ASSISTANT)] == [0, 1, 1]
