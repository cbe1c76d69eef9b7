"""Accuracy of `rlhf data taxonomy tag` on prompts that were tagged by hand.

python benchmarks/cpu_tagging.py [--prompts FILE] [--embeddings DIR] [--threshold 0.5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlhf.config.paths import resource
from rlhf.data.embeddings import Embedder
from rlhf.data.records import PromptRecord, read_jsonl
from rlhf.data.tagging import Tagger
from rlhf.data.taxonomy import LEVELS, Taxonomy
from rlhf.ops.intervals import wilson
from rlhf.runtime.usage import versions

PROMPTS = Path(__file__).parents[1] / "tests" / "data" / "taxonomy_eval.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="records with categories")
    parser.add_argument("--embeddings", type=Path, help="sentence-transformers model")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tagging.json"))
    arguments = parser.parse_args()
    encode = Embedder(arguments.embeddings) if arguments.embeddings else None
    tagger = Tagger(Taxonomy.load(resource("data_schemas/taxonomy.yaml")), encode)
    records = list(read_jsonl(arguments.prompts, PromptRecord))
    tags = tagger([record.text for record in records])
    # [(which levels are right, is it sure?)]
    judged = [
        (
            [tag.path[:depth] == record.category[:depth] for depth in range(1, LEVELS + 1)],
            tag.confidence[-1] >= arguments.threshold,
        )
        for tag, record in zip(tags, records, strict=True)
    ]
    result = {
        "threshold": arguments.threshold,
        "left_for_a_person": share([not sure for _, sure in judged]),
        "all": levels([right for right, _ in judged]),
        "tagged": levels([right for right, sure in judged if sure]),
        "versions": versions(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    arguments.out.write_text(text + "\n")


def levels(judged: list[list[bool]]) -> list[dict[str, float]]:
    """Shares of right answers at the primary, secondary and tertiary level."""
    return [share([right[level] for right in judged]) for level in range(LEVELS)]


def share(flags: list[bool]) -> dict[str, float]:
    """Of the true, with its 95 % Wilson interval."""
    low, high = wilson(sum(flags), len(flags))
    part = sum(flags) / len(flags)
    return {"of": len(flags), "share": round(part, 3), "low": round(low, 3), "high": round(high, 3)}


if __name__ == "__main__":
    main()
