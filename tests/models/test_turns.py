from __future__ import annotations

import pytest
from transformers import AddedToken, PreTrainedTokenizerFast

from rlhf.data.chat_format import encode_conversation, encode_prompt, encode_response
from rlhf.data.records import Message
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.chat_template import adopt_turns, read_turns
from rlhf.models.registry import spec_of
from rlhf.models.spec import ModelSpec
from rlhf.models.turns import Turns
from tests.llamas import CHATML, SPECIAL, byte_level_tokenizer

N = -100
ONE_ROUND = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo 12"}]
ROUNDS = [*ONE_ROUND, {"role": "user", "content": "你好?"}]
SYSTEM = [{"role": "system", "content": "Rules"}, *ROUNDS]
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|free|>' + m['role'] + '\n\n' + m['content'] | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|free|>assistant\n\n' }}{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('no system here') }}{% endif %}{% endfor %}"
)


def adopted(template: str | None) -> tuple[ModelSpec, PreTrainedTokenizerFast]:
    tokenizer = byte_level_tokenizer(template)
    turns = read_turns(tokenizer)
    adopt_turns(tokenizer, turns)
    config = BaichuanConfig(vocab_size=320, chat_turns=vars(turns))
    return spec_of(config), tokenizer


def messages(turns: list[dict[str, str]]) -> list[Message]:
    return [Message.model_validate(turn) for turn in turns]


@pytest.mark.parametrize("template", [CHATML, LLAMA_3], ids=["chatml", "llama-3"])
@pytest.mark.parametrize("chat", [ROUNDS, SYSTEM], ids=["default", "system"])
def test_prompt_is_that_of_the_source(template: str, chat: list[dict[str, str]]) -> None:
    spec, tokenizer = adopted(template)
    source = byte_level_tokenizer(template)
    expected = source.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert encode_prompt(spec, tokenizer, messages(chat)) == source.encode(expected)
    ours = tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, chat_template=spec.chat_template
    )
    assert ours == expected


def test_conversation_is_the_prompt_and_the_answer() -> None:
    spec, tokenizer = adopted(CHATML)
    chat = messages([*ROUNDS, {"role": "assistant", "content": "Fine"}])
    ids, labels = encode_conversation(spec, tokenizer, chat)
    answer = encode_response(spec, tokenizer, "Fine")
    assert ids == encode_prompt(spec, tokenizer, chat[:3]) + answer
    assert tokenizer.decode(encode_response(spec, tokenizer, "Fine", ended=False)) == "Fine"
    assert tokenizer.decode([i for i in labels if i != N]) == "Yo 12<|im_end|>Fine<|im_end|>"
    assert all(label in (N, i) for i, label in zip(ids, labels, strict=True))
    assert encode_conversation(spec, tokenizer, chat, 30).labels == labels[:30]


def test_a_format_that_says_what_the_template_calls_its_parts() -> None:
    """Written in their places one after another, they were found in one another."""
    turns = Turns("<s>QUESTION: ", "\nANSWER: ", "</s>QUESTION: ", "BEFORE_SYSTEM ", " OPENING ")
    tokenizer = byte_level_tokenizer(turns.template)
    tokenizer.eos_token = "</s>"
    parts = ["<s>QUESTION: Hi\nANSWER: Yo 12</s>QUESTION: 你好?", "\nANSWER: "]
    text = tokenizer.apply_chat_template(ROUNDS, tokenize=False, add_generation_prompt=True)
    assert text == "".join(parts)
    asked = tokenizer.apply_chat_template(SYSTEM, tokenize=False)
    assert asked == parts[0].replace("<s>QUESTION: ", "BEFORE_SYSTEM Rules OPENING ", 1)


def test_the_oldest_rounds_are_left_out() -> None:
    spec, tokenizer = adopted(CHATML)
    newest = encode_prompt(spec, tokenizer, messages([SYSTEM[0], SYSTEM[3]]))
    whole = encode_prompt(spec, tokenizer, messages(SYSTEM))
    assert encode_prompt(spec, tokenizer, messages(SYSTEM), len(whole)) == whole
    assert encode_prompt(spec, tokenizer, messages(SYSTEM), len(whole) - 1) == newest
    assert encode_prompt(spec, tokenizer, messages(SYSTEM), 5) == newest[-5:]


@pytest.mark.parametrize("template", [CHATML, LLAMA_3, None])
def test_text_never_becomes_a_special_token(template: str | None) -> None:
    spec, tokenizer = adopted(template)
    special = {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    for written in SPECIAL:
        text = f"a{written}\nuser {written}{written}"
        ids = encode_response(spec, tokenizer, text)
        assert ids[-1] == tokenizer.eos_token_id and not special & set(ids[:-1])
        assert tokenizer.decode(ids[:-1]) == text
        plain, chat = (messages([{"role": "user", "content": t}]) for t in ("a", text))
        prompts = [encode_prompt(spec, tokenizer, each) for each in (plain, chat)]
        counts = [[i for i in prompt if i in special] for prompt in prompts]
        assert counts[0] == counts[1]


def test_tokens_of_the_format_are_made_special() -> None:
    tokenizer = byte_level_tokenizer("")
    tokenizer.add_tokens([AddedToken("<turn>", special=False)])
    turns = Turns("<turn>", "<|free|>", "<|im_end|><turn>")
    assert tokenizer.encode("<turn>", split_special_tokens=True) == [320]
    adopt_turns(tokenizer, turns)
    assert 320 not in tokenizer.encode("<turn>", split_special_tokens=True)
    assert tokenizer.encode("<turn>") == [320]


def test_padding_is_not_the_end_of_an_answer() -> None:
    _, tokenizer = adopted(CHATML)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_end_of_an_answer_is_eos() -> None:
    tokenizer = byte_level_tokenizer(CHATML.replace("<|im_end|>", "<|free|>"))
    turns = read_turns(tokenizer)
    adopt_turns(tokenizer, turns)
    assert tokenizer.eos_token == "<|free|>" and turns.question.startswith("<|free|>\n")


def test_a_format_without_a_place_for_a_system_message() -> None:
    spec, tokenizer = adopted(INSTRUCT)
    assert spec.turns == Turns("<|im_start|>[INST] ", " [/INST]", "<|im_end|>[INST] ")
    with pytest.raises(ValueError, match="no place for a system message"):
        encode_prompt(spec, tokenizer, messages(SYSTEM))


def test_without_a_template_free_tokens_are_the_roles() -> None:
    tokenizer = byte_level_tokenizer(None)
    turns = read_turns(tokenizer)
    assert turns == Turns("<|free|>", "<|spare|>", "<|im_end|><|free|>", "", "<|free|>")
    tokenizer.bos_token, tokenizer.unk_token = "<|free|>", "<|im_start|>"
    tokenizer.pad_token = "<|spare|>"
    with pytest.raises(ValueError, match="nor EOS and two special tokens more"):
        read_turns(tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("<|im_end|>", "[end]"),
        CHATML.replace("message['content']", "message['content'][:3]"),
        "{{ raise_exception('never') }}",
        "{{ undefined['role'] }}",
        "{% broken",
    ],
)
def test_a_template_that_does_more(template: str) -> None:
    with pytest.raises(ValueError, match="write one that does into tokenizer_config.json") as error:
        read_turns(byte_level_tokenizer(template))
    assert "\n" not in str(error.value)
