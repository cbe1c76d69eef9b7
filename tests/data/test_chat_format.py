from __future__ import annotations

import pytest

from rlhf.data.chat_format import encode_conversation, encode_prompt, encode_response
from rlhf.data.records import Message
from rlhf.models.baichuan.tokenization import BaichuanTokenizer
from rlhf.models.registry import REGISTRY
from tests.checkpoints import train_tokenizer

from .stand_ins import ASSISTANT, EOS, TOKENIZER, USER, V1_13B, V2

WRITTEN = ["<reserved_193>", "<reserved_194>", "</s>", "<s>", "<unk>"]
A, B, C, D, S = (ord(letter) for letter in "ABCDS")
N = -100


def turns(*texts: str, system: str | None = None) -> list[Message]:
    roles = ("user", "assistant")
    messages = [
        Message.model_validate({"role": roles[index % 2], "content": text})
        for index, text in enumerate(texts)
    ]
    return ([Message(role="system", content=system)] if system else []) + messages


def test_prompt_v2_has_raw_system_and_no_eos_between_turns() -> None:
    ids = encode_prompt(V2, TOKENIZER, turns("A", "BB", "C", system="S"))
    assert ids == [S, USER, A, ASSISTANT, B, B, USER, C, ASSISTANT]


def test_prompt_v1_chat_closes_answers_with_eos() -> None:
    ids = encode_prompt(V1_13B, TOKENIZER, turns("A", "B", "C"))
    assert ids == [USER, A, ASSISTANT, B, EOS, USER, C, ASSISTANT]


def test_system_message_where_there_is_no_place_for_one() -> None:
    messages = turns("A", "B", system="S")
    with pytest.raises(ValueError, match="v1 has no place for a system message"):
        encode_prompt(V1_13B, TOKENIZER, messages[:2])
    with pytest.raises(ValueError, match="v1 has no place for a system message"):
        encode_conversation(V1_13B, TOKENIZER, messages)


def test_conversation_v2_learns_eos_at_the_next_user_token_and_at_the_end() -> None:
    encoded = encode_conversation(V2, TOKENIZER, turns("A", "BB", "C", "D", system="S"))
    assert encoded.input_ids == [S, USER, A, ASSISTANT, B, B, USER, C, ASSISTANT, D, EOS]
    assert encoded.labels == [N, N, N, N, B, B, EOS, N, N, D, EOS]


def test_conversation_v1_chat_learns_its_own_eos() -> None:
    encoded = encode_conversation(V1_13B, TOKENIZER, turns("A", "B", "C", "D"))
    assert encoded.input_ids == [USER, A, ASSISTANT, B, EOS, USER, C, ASSISTANT, D, EOS]
    assert encoded.labels == [N, N, N, B, EOS, N, N, N, D, EOS]


def test_conversation_is_the_prompt_followed_by_the_response() -> None:
    for spec in (V1_13B, V2):
        whole = encode_conversation(spec, TOKENIZER, turns("A", "B", "C", "DD")).input_ids
        prompt = encode_prompt(spec, TOKENIZER, turns("A", "B", "C"))
        assert whole == prompt + encode_response(spec, TOKENIZER, "DD")
        assert whole == [*prompt, *encode_response(spec, TOKENIZER, "DD", ended=False), EOS]


def test_conversation_is_cut_on_the_right() -> None:
    encoded = encode_conversation(V2, TOKENIZER, turns("A", "BB", "C", "D"), max_length=5)
    assert encoded.input_ids == [USER, A, ASSISTANT, B, B]
    assert encoded.labels == [N, N, N, B, B]


def test_prompt_drops_the_oldest_whole_rounds() -> None:
    messages = turns("A", "A", "B", "B", "C", system="S")
    newest, middle = [USER, C, ASSISTANT], [USER, B, ASSISTANT, B]
    everything = [S, USER, A, ASSISTANT, A, *middle, *newest]
    assert encode_prompt(V2, TOKENIZER, messages, max_length=12) == everything
    assert encode_prompt(V2, TOKENIZER, messages, max_length=10) == [S, *middle, *newest]
    # System 1 + middle 4 + newest 2 = 7 fits, and the assistant's token then pushes one id out.
    assert encode_prompt(V2, TOKENIZER, messages, max_length=7) == [*middle, *newest]
    assert encode_prompt(V2, TOKENIZER, messages, max_length=6) == [S, *newest]


def test_a_dropped_round_hides_all_before_it() -> None:
    messages = turns("A", "A", "BBBBBBBB", "B", "C")
    assert encode_prompt(V2, TOKENIZER, messages, max_length=9) == [USER, C, ASSISTANT]


def test_the_newest_round_alone_is_cut_on_the_left() -> None:
    ids = encode_prompt(V2, TOKENIZER, turns("A", "A", "BCD", system="S"), max_length=3)
    assert ids == [C, D, ASSISTANT]


@pytest.fixture(scope="module", params=["baichuan-13b", "baichuan2-7b"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A spec and its kind of sentencepiece tokenizer, where <reserved_193> is the user's token."""
    spec = REGISTRY[request.param]
    file = tmp_path_factory.mktemp(spec.name) / "tokenizer.model"
    file.write_bytes(train_tokenizer(dummy_prefix=spec.generation == 1))
    tokenizer = BaichuanTokenizer(str(file))
    assert tokenizer.convert_tokens_to_ids(WRITTEN) == [USER, ASSISTANT, EOS, 1, 0]
    return spec, tokenizer


@pytest.mark.parametrize("around", ["{}", "你好{0} {0}{0}<reserved_3>\n", " {} "])
@pytest.mark.parametrize("token", WRITTEN)
def test_text_never_becomes_a_role_or_special_token(real, around: str, token: str) -> None:
    spec, tokenizer = real
    text = around.format(token)
    (user, *asked, assistant) = encode_prompt(spec, tokenizer, turns(text))
    (*answer, end) = encode_response(spec, tokenizer, text)
    assert (user, assistant, end) == (USER, ASSISTANT, EOS)
    assert asked == answer and not {0, 1, EOS, USER, ASSISTANT} & set(asked)
    assert tokenizer.decode(asked) == text
    ids, labels = encode_conversation(spec, tokenizer, turns(text, text))
    assert ids == [USER, *asked, ASSISTANT, *asked, EOS]
    assert labels == [N] * (len(asked) + 2) + [*asked, EOS]


def test_text_without_such_tokens_is_encoded_as_ever(real) -> None:
    spec, tokenizer = real
    text = "Hello world, 你好 <reserved_3> 42\n"
    plain = tokenizer.encode(text, add_special_tokens=False)
    assert encode_response(spec, tokenizer, text) == [*plain, EOS]


def test_what_fits_before_2048_new_tokens_of_a_context_of_4096() -> None:
    """Rounds of 1 + 500 + 1 + 500 ids, and an EOS each in version 1; the newest has 1 + 43."""
    messages = turns("A" * 500, "B" * 500, "C" * 500, "D" * 500, "A" * 43)
    limit = 4096 - 2048
    both = encode_prompt(V2, TOKENIZER, messages, max_length=limit)
    assert len(both) == 2 * 1002 + 44 + 1 - 1, "just fits, and the assistant's token pushes one out"
    assert both[:2] == [A, A] and both[-1] == ASSISTANT
    one = encode_prompt(V1_13B, TOKENIZER, messages, max_length=limit)
    assert len(one) == 1003 + 44 + 1, "an EOS a round is one too many"
    assert one[:2] == [USER, C] and one[1002:1005] == [EOS, USER, A]
    assert len(encode_prompt(V1_13B, TOKENIZER, messages, max_length=limit + 2)) == limit + 2
