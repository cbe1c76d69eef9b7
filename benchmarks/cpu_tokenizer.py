"""Batches of text through BaichuanTokenizer, beside a `tokenizers`-backed (Rust) equal of it.

python benchmarks/cpu_tokenizer.py [TEXTS...] [--vocabulary 8000] [--out RESULT.json]

TEXTS: text files, a text a line, by default this repository's. A BPE vocabulary of Baichuan 2's
kind is trained on them, and both are held to the same ids. Megabytes of UTF-8 a CPU second, the
best of five turns each, taken in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from rlhf.demo.models import train_tokenizer
from rlhf.models.baichuan.tokenization import SPACE_PIECE, BaichuanTokenizer
from rlhf.runtime.usage import versions

ROOT = Path(__file__).parents[1]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # kinds of pieces
LONGEST, TURNS = 600, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, nargs="*")
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tokenizer.json"))
    arguments = parser.parse_args()
    files = arguments.texts or [
        file for folder in ("docs", "rlhf", "tests") for file in (ROOT / folder).rglob("*.[mp][dy]")
    ]
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    texts = [line[:LONGEST] for line in lines if line and SPACE_PIECE not in line]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "tokenizer.model")
        model.write_bytes(train_tokenizer(texts, arguments.vocabulary, dummy_prefix=False))
        ours, rust = BaichuanTokenizer(str(model)), rust_equal(model.read_bytes())
        differing = sum(a != b for a, b in zip(ids(ours, texts), ids(rust, texts), strict=True))
        seconds = fastest({"ours": ours, "rust": rust}, texts)
    size = sum(len(text.encode()) for text in texts) / 1e6
    content = {
        "workload": f"{len(texts)} texts, {size:.1f} MB, {arguments.vocabulary} pieces; "
        f"ids differ in {differing} texts",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}",
        "versions": versions(),
        "ours": round(size / seconds["ours"], 2),
        "baseline": round(size / seconds["rust"], 2),
        "unit": "MB/CPU second in one batch; baseline: tokenizers' BPE in PreTrainedTokenizerFast",
        "ratio": round(seconds["rust"] / seconds["ours"], 2),
        "seconds": round(seconds["ours"], 2),
    }
    arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=2))


def ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return found


def fastest(tokenizers: dict[str, Any], texts: list[str]) -> dict[str, float]:
    best = dict.fromkeys(tokenizers, float("inf"))
    for _ in range(TURNS):
        for name, tokenizer in tokenizers.items():
            start = time.process_time()
            ids(tokenizer, texts)
            best[name] = min(best[name], time.process_time() - start)
    return best


def rust_equal(model: bytes) -> PreTrainedTokenizerFast:
    """A piece is merged from any two pieces that it consists of, those of high score first."""
    pieces = sentencepiece_model_pb2.ModelProto.FromString(model).pieces
    normal = {piece.piece for piece in pieces if piece.type == NORMAL}
    splits = [
        (-piece.score, piece.piece[:cut], piece.piece[cut:])
        for piece in pieces
        if piece.type == NORMAL
        for cut in range(1, len(piece.piece))
    ]
    merges = [(a, b) for _, a, b in sorted(splits, key=lambda s: s[0]) if {a, b} <= normal]
    vocabulary = {piece.piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE_PIECE)
    whole = [p.piece for p in pieces if p.type in (UNKNOWN, CONTROL, USER_DEFINED)]
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in whole])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


if __name__ == "__main__":
    main()
