from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf.config.paths import resource
from rlhf.config.schema import DemoSection
from rlhf.data.chat_format import encode_prompt
from rlhf.data.dedup import near_duplicates
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import Message, PromptRecord, SFTRecord
from rlhf.data.taxonomy import Taxonomy
from rlhf.demo.build import build
from rlhf.models.checkpoint import check_checkpoint
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.models.registry import spec_of

TAXONOMY = Taxonomy.load(resource("data_schemas/taxonomy.yaml"))
DEMO = DemoSection(
    checkpoints={"rope": "baichuan2-7b", "old": "baichuan-13b", "moss": "moss-moon-003"},
    sft_records=200,
    sft_eval_records=10,
    prompts=80,
    eval_prompts=20,
    vocabulary=1200,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    build(DEMO, TAXONOMY, directory)
    return directory


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_as_many_records_as_asked_for(world):
    counts = {
        name: len(list(read_jsonl(world / f"{name}.jsonl", model)))
        for name, model in (
            ("sft", SFTRecord),
            ("sft_eval", SFTRecord),
            ("prompts", PromptRecord),
            ("prompts_eval", PromptRecord),
        )
    }
    assert counts == {"sft": 200, "sft_eval": 10, "prompts": 80, "prompts_eval": 20}


def test_no_held_out_prompt_is_like_one_of_training(world):
    train, held_out = (
        [record.text for record in read_jsonl(world / f"{name}.jsonl", PromptRecord)]
        for name in ("prompts", "prompts_eval")
    )
    assert near_duplicates(train, held_out, 0.8) == []


def test_checkpoints_are_of_the_family_in_the_official_layout(world):
    check_checkpoint(world / "models/rope", "baichuan2-7b")
    check_checkpoint(world / "models/old", "baichuan-13b")
    assert (world / "models/rope/model.safetensors").is_file()
    assert (world / "models/old/pytorch_model.bin").is_file()
    tokenizer = load_tokenizer(world / "models/rope")
    text = "我想学游泳。How do I begin in 2026?"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    model = load_causal_lm(world / "models/rope", dtype=torch.float32, device="cpu")
    assert model(input_ids=torch.tensor([ids])).logits.shape == (1, len(ids), 1200)


def test_the_same_section_makes_the_same_bytes(world, tmp_path):
    build(DEMO, TAXONOMY, tmp_path)
    assert content(tmp_path) == content(world)


def test_what_is_there_is_left_and_what_was_broken_off_is_made_again(tmp_path):
    demo = DEMO.model_copy(update={"checkpoints": {}})
    build(demo, TAXONOMY, tmp_path)
    (tmp_path / "sft.jsonl").write_text("changed")
    build(demo, TAXONOMY, tmp_path)
    assert (tmp_path / "sft.jsonl").read_text() == "changed"
    (tmp_path / "world.sha256").unlink()
    build(demo, TAXONOMY, tmp_path)
    assert len(list(read_jsonl(tmp_path / "sft.jsonl", SFTRecord))) == 200


def test_a_vocabulary_that_does_not_fit_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^demo\.vocabulary = 300 does not fit: [^\n]+$"):
        build(DEMO.model_copy(update={"vocabulary": 300}), TAXONOMY, tmp_path)


def test_a_tiny_moss_in_the_official_layout(world):
    path = world / "models/moss"
    check_checkpoint(path, "moss-moon-003")
    weights = torch.load(path / "pytorch_model.bin", weights_only=True)
    assert "transformer.h.2.attn.causal_mask" in weights
    tokenizer = load_tokenizer(path)
    spec, text = spec_of(path), "我想学游泳。How do I begin in 2026?"
    ids = encode_prompt(spec, tokenizer, [Message(role="user", content=text)])
    assert tokenizer.decode(ids).startswith(f"<|Human|>: {text}<eoh>")
    # What stands around a question leaves room for an answer in a rehearsal's 128 tokens.
    assert len(ids) - len(tokenizer.encode(text)) < 48
    model = load_causal_lm(path, dtype=torch.float32, device="cpu")
    assert model(input_ids=torch.tensor([ids])).logits.shape == (1, len(ids), 1200)
