"""Records a second and memory of `rlhf data validate`, on one core.

python benchmarks/cpu_records.py [--documents 1000000] [--out RESULT.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

from rlhf.config.paths import resource
from rlhf.data.taxonomy import Taxonomy
from rlhf.data.validate import validate
from rlhf.runtime.usage import Meter, Usage, versions

TARGETS = {
    "sft": 20_000,
    "ranking": 5_000,
}  # records per second of a core that this project asks of itself
ANSWER = "先把番茄洗净，切成小块，放进锅里用小火慢慢炒出汁来，再加水煮开。 " * 3
RESPONSES = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000, help="sft records")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/records.json"))
    arguments = parser.parse_args()
    taxonomy = Taxonomy.load(resource("data_schemas/taxonomy.yaml"))
    category = next(iter(taxonomy.levels[-1]))
    # Rankings are larger: a tenth of them takes about as long.
    counts = {"sft": arguments.documents, "ranking": arguments.documents // 10}
    kinds = {}
    for kind, count in counts.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "records.jsonl")
            write(path, kind, count, category)
            kinds[kind] = measure(path, kind, taxonomy)
    content = {
        "workload": f"validation of {counts['sft']} sft and {counts['ranking']} ranking records "
        f"of {RESPONSES} responses",
        "hardware": f"{platform.machine()}, one core",
        "versions": versions(),
        "ours": kinds["sft"]["rate"],
        "baseline": TARGETS["sft"],
        "unit": "sft records per second of one core; "
        "baseline: the rate this project asks of itself",
        "ratio": round(kinds["sft"]["rate"] / TARGETS["sft"], 2),
        "peak_gib": max(kind["peak_gib"] for kind in kinds.values()),
        "seconds": round(sum(kind["seconds"] for kind in kinds.values()), 1),
        "kinds": kinds,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    json.dump(content, sys.stdout, indent=2)


def write(path: Path, kind: str, count: int, category: tuple[str, ...]) -> None:
    question = {"role": "user", "content": "请告诉我怎么做番茄汤，要简单一点的。"}
    tail: dict[str, object] = {
        "messages": [question, {"role": "assistant", "content": ANSWER}],
        "source": "crowd",
        "category": category,
    }
    if kind == "ranking":
        origin = {"family": "baichuan", "model": "m", "size": "7b", "stage": "sft"}
        tail = {
            "prompt": {"id": "p", "messages": [question], "category": category},
            "responses": [
                {"id": str(k), "text": ANSWER, "provenance": origin} for k in range(RESPONSES)
            ],
            "ranks": list(range(1, RESPONSES + 1)),
            "grades": [3] * (RESPONSES - 1),
        }
    with path.open("w", encoding="utf-8") as stream:
        rest = json.dumps(tail, ensure_ascii=False)[1:]
        for number in range(count):
            stream.write(f'{{"id": "record-{number * 7919 % count}-{number}", {rest}\n')


def measure(path: Path, kind: str, taxonomy: Taxonomy) -> dict[str, float]:
    meter = Meter(Usage(0, 0, 0))
    counts = validate(path, kind, taxonomy, print)
    usage = meter.read()
    assert counts.bad == 0
    return {
        "records": counts.good,
        "rate": round(counts.good / usage.cpu_seconds, 1),
        "target": TARGETS[kind],
        "peak_gib": round(usage.peak_memory_gib, 3),
        "seconds": round(usage.seconds, 1),
    }


if __name__ == "__main__":
    main()
