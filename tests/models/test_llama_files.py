"""Tokenizers of Llama checkpoints, imported and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.models.llama_files import import_tokenizer
from tests.llamas import CHATML, write_sentencepiece


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
