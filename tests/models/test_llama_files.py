"""Tokenizers of Llama checkpoints, imported and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from rlhf.apps.export import export, import_llama
from rlhf.models.export import save_reward_model
from rlhf.models.llama_files import import_tokenizer
from rlhf.models.load import load_reward_model, load_tokenizer
from tests.llamas import CHATML, import_with_bos, write_sentencepiece


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", [{"name": n, "template": CHATML} for n in ("rag", "tool_use")]]
)
def test_a_template_that_cannot_be_rendered_is_not_baichuan_2_s(
    tmp_path: Path, template: object
) -> None:
    write_sentencepiece(tmp_path)
    fields = {"tokenizer_class": "LlamaTokenizer", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    assert import_tokenizer(tmp_path)[1] == {"chat_generation": None}


def test_bos_in_front_of_text_comes_back_from_llama(tmp_path: Path) -> None:
    ours, llama, again = import_with_bos(tmp_path), tmp_path / "exported", tmp_path / "again"
    export(ours, llama, "llama")
    source, exported = (AutoTokenizer.from_pretrained(tmp_path / n) for n in ("llama", "exported"))
    assert exported.encode("Hello") == source.encode("Hello")
    assert exported.encode("Hello")[0] == source.bos_token_id
    first = json.loads((llama / "tokenizer.json").read_text())["post_processor"]["single"][0]
    assert first["SpecialToken"]["id"] == "<|endoftext|>"
    chat = [{"role": "user", "content": "Hi"}]
    asked, expected = (
        each.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        for each in (exported, source)
    )
    assert asked == expected
    import_llama(llama, again)
    turns = [json.loads((each / "config.json").read_text())["chat_turns"] for each in (ours, again)]
    assert turns[0] == turns[1] and turns[0]["before_text"] == "<|endoftext|>"


def test_an_exported_reward_model_reads_one_bos(tmp_path: Path) -> None:
    """Its text is always a template's."""
    ours, reward, llama = import_with_bos(tmp_path), tmp_path / "reward", tmp_path / "exported"
    model = load_reward_model(ours, dtype=torch.float32, device="cpu")
    save_reward_model(model, load_tokenizer(ours), reward, score_mean=0.0, score_std=1.0)
    export(reward, llama, "llama")
    tokenizer = AutoTokenizer.from_pretrained(llama)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 1
