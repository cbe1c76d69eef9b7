"""Documents a second, memory, recall and precision of `rlhf data dedup`, beside datasketch.

python benchmarks/cpu_dedup.py [--documents 1000000] [--baseline 10000] [--out RESULT.json]
python benchmarks/cpu_dedup.py --templated --documents 20000 --out RESULT.json

Of the generated documents a twentieth are planted duplicates of another (Jaccard 0.8 to 1) and a
twentieth distractors (0.4 to 0.6); half are Chinese. A planted one counts as found when it is
dropped in favour of its own original; a distractor or any other that is dropped is a false one.
With --templated all begin with one instruction of their language, 20 of 28 tokens (any two: 0.53 or
more), and the distractors have up to 0.79.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

from rlhf.data.dedup.files import dedup_files
from rlhf.data.dedup.shingles import TOKENS_A_SHINGLE, normalise, tokens
from rlhf.runtime.usage import Meter, Usage, versions

THRESHOLD = 0.8
PERMUTATIONS, BANDS, ROWS = 128, 21, 6  # of datasketch: 99.8 % of pairs at the threshold are found
ENGLISH = [f"word{i}" for i in range(20_000)]
CHINESE = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]


class Shape(NamedTuple):
    """Tokens that documents of a language have in common, those of their own, and how many of these
    a planted duplicate and a distractor have replaced, at the end."""

    template: int
    own: int
    near: tuple[int, int]
    far: tuple[int, int]


# Of 58 shingles, other words in the last n places leave 58 - n: n = 6 gives 52 / 64 = 0.81,
# n = 15 gives 43 / 73 = 0.59, n = 24 gives 34 / 82 = 0.41.
PLAIN = Shape(0, 60, (0, 6), (15, 24))
# Of 26 shingles: n = 2 gives 24 / 28 = 0.86, n = 3 gives 23 / 29 = 0.79.
TEMPLATED = Shape(20, 8, (0, 2), (3, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--baseline", type=int, default=10_000, help="documents for datasketch")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dedup_1m.json"))
    parser.add_argument("--templated", action="store_true", help="all begin alike")
    arguments = parser.parse_args()
    shape = TEMPLATED if arguments.templated else PLAIN
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "documents.jsonl"), Path(folder, "out")
        write(source, arguments.documents, shape)
        load, meter = os.getloadavg()[0], Meter(Usage(0, 0, 0))
        dedup_files([source], out, THRESHOLD)
        usage = meter.read()
        quality = judge(out / "dropped.jsonl", arguments.documents)
        ours = arguments.documents / usage.seconds
        baseline = datasketch_rate(source, arguments.baseline)
    content = {
        "workload": f"dedup of {arguments.documents} documents of {shape.template + shape.own} "
        f"tokens{f', {shape.template} of them from a template' if shape.template else ''}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, one process",
        "versions": versions(),
        "ours": round(ours, 1),
        "baseline": round(baseline, 1),
        "unit": f"documents/s, files and scores included; baseline: datasketch's MinHashLSH alone "
        f"on {arguments.baseline} documents",
        "ratio": round(ours / baseline, 2),
        "peak_gib": round(usage.peak_memory_gib, 3),
        "seconds": round(usage.seconds, 1),
        "cpu_seconds": round(usage.cpu_seconds, 1),
        "load_average_before": round(load, 2),
        **quality,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    json.dump(content, sys.stdout, indent=2)


def documents(count: int, shape: Shape) -> Iterator[tuple[str, str]]:
    """(id, text) in groups of 20: 18 plain ones, one near the first, one far from the second."""
    random = Random(0)
    for group in range(count // 20):
        vocabulary, join = ((CHINESE, ""), (ENGLISH, " "))[group % 2]
        plain = [random.choices(vocabulary, k=shape.own) for _ in range(18)]
        kept = shape.own - random.randint(*shape.near), shape.own - random.randint(*shape.far)
        copies = [
            words[:n] + random.choices(vocabulary, k=shape.own - n)
            for words, n in zip(plain, kept, strict=False)
        ]
        for number, words in enumerate(plain + copies):
            yield f"{group}-{number}", join.join(vocabulary[: shape.template] + words)


def write(path: Path, count: int, shape: Shape) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for identity, text in documents(count, shape):
            row = {"id": identity, "text": text}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def judge(dropped: Path, count: int) -> dict[str, float | int]:
    with dropped.open(encoding="utf-8") as stream:
        pairs = [(row["id"], row["kept"]["id"]) for row in map(json.loads, stream)]
    planted = count // 20
    right = sum(pair == (f"{(group := pair[0].split('-')[0])}-18", f"{group}-0") for pair in pairs)
    return {
        "planted": planted,
        "dropped": len(pairs),
        "recall": round(right / planted, 5),
        "precision": round(right / max(1, len(pairs)), 5),
    }


def datasketch_rate(path: Path, count: int) -> float:
    """Documents a second: query, then insert, our shingles as text; candidates stay unverified."""
    with path.open(encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in islice(stream, count)]
    start = time.perf_counter()
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
    for number, text in enumerate(texts):
        words = tokens(normalise(text))
        runs = (words[i : i + TOKENS_A_SHINGLE] for i in range(len(words) - TOKENS_A_SHINGLE + 1))
        signature = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([" ".join(run).encode() for run in runs])
        index.query(signature)
        index.insert(number, signature, check_duplication=False)
    return len(texts) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
