from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import rlhf.models  # noqa: F401
from rlhf.models.baichuan.tokenization import BaichuanTokenizer

HARD = [
    "",
    " ",
    "  two spaces  inside ",
    "line\n\nfeeds\r\n\ttabs\x00\x7f",
    "你好 Hello 12345 🙂👨‍👩‍👧 \u2581 \u2581x \u200b\ufeff\u0301",
    "</s> a</s>b <unk> <s> <0x0A> <reserved_3>",
]


@pytest.fixture
def tokenizer(tmp_path: Path, pieces: Callable[[int], bytes]) -> Callable[[int], BaichuanTokenizer]:
    def make(generation: int) -> BaichuanTokenizer:
        file = tmp_path / "tokenizer.model"
        file.write_bytes(pieces(generation))
        return BaichuanTokenizer(str(file))

    return make


def random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x2500, 0x2600), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]
    return [
        "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 40)))
        for _ in range(count)
    ]


def test_second_generation_round_trips_any_text(
    tokenizer: Callable[[int], BaichuanTokenizer],
) -> None:
    made = tokenizer(2)
    for text in [*HARD, *random_texts(300)]:
        ids = made(text)["input_ids"]
        assert made.decode(ids) == text
        assert made.convert_tokens_to_ids(made.tokenize(text)) == ids


def test_first_generation_has_a_dummy_prefix(
    tokenizer: Callable[[int], BaichuanTokenizer],
) -> None:
    first, second = (tokenizer(generation).tokenize("Hello")[0] for generation in (1, 2))
    assert first.startswith("\u2581") and not second.startswith("\u2581")
    made = tokenizer(1)
    for text in ("你好\n🙂", "Hello  world 123", "a▁"):
        assert made.decode(made(text)["input_ids"]) == text
    assert made.decode(made("a▁b")["input_ids"]) == "a▁ b"  # ids that models were trained on


def test_ids_where_the_official_vocabulary_has_them(
    tokenizer: Callable[[int], BaichuanTokenizer],
) -> None:
    made = tokenizer(2)
    assert (made.pad_token_id, made.bos_token_id, made.eos_token_id) == (0, 1, 2)
    assert made.convert_tokens_to_ids(["<reserved_193>", "<reserved_194>"]) == [195, 196]
    assert len(made) == made.vocab_size == 512
    assert len(made("123")["input_ids"]) == 3


def test_no_bos_no_eos_and_skipping(tokenizer: Callable[[int], BaichuanTokenizer]) -> None:
    made = tokenizer(2)
    ids = made("Hello")["input_ids"]
    assert made.build_inputs_with_special_tokens(ids) == ids and 1 not in ids and 2 not in ids
    assert made.decode([*ids, 2]) == "Hello</s>"
    assert made.decode([*ids, 2], skip_special_tokens=True) == "Hello"
    assert set(made(["a", "bb b"], padding=True)) == {"input_ids", "attention_mask"}


def test_saved_loaded_and_pickled(
    tokenizer: Callable[[int], BaichuanTokenizer], tmp_path: Path
) -> None:
    made = tokenizer(2)
    made.chat_template = "{{ messages }}"
    made.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for other in (saved, pickle.loads(pickle.dumps(made))):
        assert type(other) is BaichuanTokenizer
        assert all(other(text)["input_ids"] == made(text)["input_ids"] for text in HARD)
        assert other.chat_template == made.chat_template
    assert "auto_map" not in json.loads((tmp_path / "saved/tokenizer_config.json").read_text())


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-7b"])
@pytest.mark.parametrize("trusting", [None, False, True])
def test_auto_tokenizer_never_runs_the_directory(
    checkpoint: Callable[..., Path], architecture: str, trusting: bool | None
) -> None:
    path = checkpoint(architecture)
    found = AutoTokenizer.from_pretrained(path, trust_remote_code=trusting)
    assert type(found) is BaichuanTokenizer
    (path / "tokenizer_config.json").unlink()
    found = AutoTokenizer.from_pretrained(path, trust_remote_code=trusting)
    assert type(found) is BaichuanTokenizer


@pytest.mark.parametrize("named", [None, "LlamaTokenizer", "Unheard"])
@pytest.mark.parametrize("trusting", [None, True])
def test_auto_tokenizer_never_runs_a_file_whatever_the_class_is_called(
    checkpoint: Callable[..., Path], named: str | None, trusting: bool | None
) -> None:
    """The directory's file leaves a trace where it runs."""
    path = checkpoint()
    trace, code = path / "ran", path / "tokenization_other.py"
    code.write_text(f"open({str(trace)!r}, 'w')\nclass Other: pass\n")
    settings = {"auto_map": {"AutoTokenizer": ["tokenization_other.Other", None]}}
    settings |= {"tokenizer_class": named} if named else {}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = AutoTokenizer.from_pretrained(path, trust_remote_code=trusting)
    assert type(found) is BaichuanTokenizer and not trace.exists()


def test_a_tokenizer_by_itself_is_left_to_its_own_class(
    checkpoint: Callable[..., Path],
) -> None:
    """Where a configuration beside it names a class that nobody knows, the family's is taken."""
    path = checkpoint()
    settings = json.loads((path / "config.json").read_text()) | {"tokenizer_class": "Unheard"}
    (path / "config.json").write_text(json.dumps(settings))
    (path / "tokenizer_config.json").unlink()
    assert type(AutoTokenizer.from_pretrained(path)) is BaichuanTokenizer
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (path / "config.json").unlink()
    assert type(AutoTokenizer.from_pretrained(path)).__name__ == "LlamaTokenizer"


def test_added_token_outside_the_embedding_is_left_out(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Baichuan2-7B-Chat ships <pad> with the first id that its embedding does not have."""
    path, warned = checkpoint(), []
    (path / "added_tokens.json").write_text(json.dumps({"<pad>": 512}))
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<pad>"}))
    monkeypatch.setattr(
        "rlhf.models.baichuan.tokenization.logger.warning", lambda *args: warned.append(args)
    )
    made = AutoTokenizer.from_pretrained(path)
    assert made.pad_token_id == 0 and len(made) == 512 and len(warned) == 1
    assert made.decode(made("a<pad>b")["input_ids"]) == "a<pad>b"


def test_an_id_without_a_piece_is_unknown(tokenizer: Callable[[int], BaichuanTokenizer]) -> None:
    second = tokenizer(2)
    ids = [*second.encode("a", add_special_tokens=False), second.vocab_size + 7]
    assert second.decode(ids) == f"a{second.unk_token}"


def test_a_list_of_pieces_is_looked_up_as_each_alone(
    tokenizer: Callable[[int], BaichuanTokenizer],
) -> None:
    made = tokenizer(2)
    made.add_tokens(["<added>"])
    assert made.convert_tokens_to_ids([]) == []
    pieces = [*made.tokenize("Hello 世界<added>\n🙂</s>"), "no such piece", "<s>"]
    ids = [made.convert_tokens_to_ids(piece) for piece in pieces]
    assert made.convert_tokens_to_ids(pieces) == ids
    assert {1, 2, made.unk_token_id, 512} <= set(ids)


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("split", [False, True])
def test_a_batch_is_as_each_text_alone(
    tokenizer: Callable[[int], BaichuanTokenizer], generation: int, split: bool
) -> None:
    made = tokenizer(generation)
    made.add_tokens(["<added>"])
    texts = [*HARD, *random_texts(300), "a <added>", "<reserved_3>"]
    batch = made(texts, split_special_tokens=split)["input_ids"]
    assert batch == [made.encode(text, split_special_tokens=split) for text in texts]
    padded = made(texts, padding=True, truncation=True, max_length=7, return_tensors="pt")
    assert padded["input_ids"].shape == (len(texts), 7)
    lengths = [min(len(ids), 7) for ids in made(texts)["input_ids"]]
    assert padded["attention_mask"].sum(-1).tolist() == lengths
