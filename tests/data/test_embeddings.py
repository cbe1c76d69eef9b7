from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from rlhf.data.embeddings import Embedder


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'baichuan-rlhf\[embeddings\]'"):
        Embedder(tmp_path)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match="no such folder"):
        Embedder(tmp_path / "absent")
    with pytest.raises(ValueError, match="no sentence-transformers model"):
        Embedder(tmp_path)


def test_vectors_have_length_one_and_follow_the_text(tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.models")
    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2}, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    table = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    static = modules.StaticEmbedding(words, embedding_weights=table)
    package.SentenceTransformer(modules=[static]).save(str(tmp_path))
    vectors = Embedder(tmp_path)(["a", "b", "a b"])
    # The mean of (3, 4) and (0, 2) is (1.5, 3).
    norm = (1.5**2 + 3**2) ** 0.5
    assert vectors.tolist() == [
        pytest.approx(row, abs=1e-6) for row in ([0.6, 0.8], [0, 1], [1.5 / norm, 3 / norm])
    ]
