"""Makes the demo world's files: what the `demo://` paths of a config name.

`demo://models/NAME` is one of the section's checkpoints, `demo://FILE.jsonl` a data file below.
Everything follows from the config's demo section: the same section makes the same bytes.
"""

from __future__ import annotations

import random
from pathlib import Path

from rlhf.config.schema import DemoSection
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import PromptRecord, SFTRecord
from rlhf.data.taxonomy import Taxonomy
from rlhf.demo import corpus, models, moss
from rlhf.models.registry import named
from rlhf.runtime.files import hash_section, write_text

STAMP = "world.sha256"
LIKENESS = 0.75
"""Likeness to any training prompt that held-out prompts stay under; the leakage check's is 0.8."""


def build(demo: DemoSection, taxonomy: Taxonomy, directory: Path) -> None:
    """Write the world under `directory`, unless the same one is there already."""
    if is_built(demo, directory):
        return
    (directory / STAMP).unlink(missing_ok=True)
    texts = _write_data(demo, taxonomy, directory)
    _write_models(demo, texts, directory)
    write_text(directory / STAMP, _state(demo))


def is_built(demo: DemoSection, directory: Path) -> bool:
    """Whether this section's world is there, as these sources make it."""
    stamp = directory / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _state(demo)


def _state(demo: DemoSection) -> str:
    sources = sorted(file for file in Path(__file__).parent.iterdir() if file.is_file())
    return hash_section(demo, [file.read_text(encoding="utf-8") for file in sources])


def _write_data(demo: DemoSection, taxonomy: Taxonomy, directory: Path) -> list[str]:
    """Writes the data files and returns the training texts, from which the tokenizer learns."""
    rng = random.Random(demo.seed)
    train_slots, held_out_slots = corpus.deal_slots(demo.seed)
    train = corpus.prompts(train_slots, demo.prompts, taxonomy, rng)
    candidates = corpus.prompts(held_out_slots, len(held_out_slots), taxonomy, rng)
    held_out = corpus.unlike(candidates, train, LIKENESS)[: demo.eval_prompts]
    sft = corpus.demonstrations(
        train, demo.sft_records, demo.flaw_rate, demo.bad_group_flaw_rate, rng
    )
    sft_eval = corpus.demonstrations(held_out, demo.sft_eval_records, demo.flaw_rate, None, rng)
    files: dict[str, list[SFTRecord] | list[PromptRecord]] = {
        "sft.jsonl": sft,
        "sft_eval.jsonl": sft_eval,
        "prompts.jsonl": train,
        "prompts_eval.jsonl": held_out,
    }
    for name, records in files.items():
        write_jsonl(directory / name, records)
    return [message.content for record in sft for message in record.messages]


def _write_models(demo: DemoSection, texts: list[str], directory: Path) -> None:
    for index, (name, architecture) in enumerate(sorted(demo.checkpoints.items())):
        spec, seed = named(architecture), demo.seed + index
        path = directory / "models" / name
        if spec.family == "moss":
            moss.write_checkpoint(path, spec, texts, demo.vocabulary, seed)
            continue
        try:
            tokenizer = models.train_tokenizer(
                texts, demo.vocabulary, dummy_prefix=spec.generation == 1
            )
        except RuntimeError as error:
            reason = str(error).partition("] ")[2]
            raise ValueError(
                f"demo.vocabulary = {demo.vocabulary} does not fit: {reason}"
            ) from None
        models.write_checkpoint(path, spec, tokenizer, seed)
