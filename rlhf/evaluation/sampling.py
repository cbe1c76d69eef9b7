"""Responses of one model to many prompts, with their provenance, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rlhf.config.schema import SamplingSection, SourceEntry
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import PromptRecord, Provenance, RankingTask, Response
from rlhf.evaluation.answers import Answerer
from rlhf.models.checkpoint import checkpoint_hash
from rlhf.models.registry import spec_of
from rlhf.runtime.distributed import Runtime, barrier, rank, world_size
from rlhf.runtime.metrics import progress

Wanted = tuple[PromptRecord, int]
"""A prompt, and which of its K responses."""


@dataclass(frozen=True)
class Sampler:
    """Samples one source, part by part; a part that lies on disk is not sampled again."""

    entry: SourceEntry
    sampling: SamplingSection
    batch_size: int
    runtime: Runtime

    def parts(
        self, wanted: Sequence[Wanted], directory: Path, title: str
    ) -> Iterator[list[RankingTask]]:
        """Tasks of one response each, `batch_size` at a time, in order.

        Processes take parts in turn; each has random numbers of its own, so that it comes to the
        same whoever takes it.
        """
        paths = {
            start: directory / f"{start}.jsonl" for start in range(0, len(wanted), self.batch_size)
        }
        mine = list(paths)[rank() :: world_size()]
        with progress(title, self.runtime) as bar:
            for done, start in enumerate(mine, start=1):
                if not paths[start].is_file():
                    part = wanted[start : start + self.batch_size]
                    write_jsonl(paths[start], self._answer(part, start))
                bar.update(len(wanted) * done // len(mine), len(wanted))
        barrier()
        for path in paths.values():
            yield list(read_jsonl(path, RankingTask))

    @cached_property
    def answerer(self) -> Answerer:
        """The source's model, loaded when the first part that is not on disk needs it."""
        return Answerer.load(self.entry.path, self.runtime)

    @cached_property
    def provenance(self) -> Provenance:
        return Provenance(
            family=spec_of(self.entry.path).family,
            model=Path(self.entry.path).name,
            size=self.entry.size,
            stage=self.entry.stage,
            checkpoint_hash=checkpoint_hash(self.entry.path),
            sampling=self.sampling.model_dump(),
        )

    def _answer(self, wanted: Sequence[Wanted], start: int) -> Iterator[RankingTask]:
        prompts = [prompt for prompt, _ in wanted]
        purpose = f"collect:{self.provenance.checkpoint_hash}:{wanted[0][0].id}:{start}"
        generator = self.runtime.generator(purpose)
        completions = self.answerer.complete(prompts, self.sampling, generator, self.batch_size)
        for (prompt, turn), completion in zip(wanted, completions, strict=True):
            response = Response(
                id=f"round-{self.runtime.round}/{prompt.id}/{turn}",
                text=self.answerer.text(completion),
                provenance=self.provenance,
                token_ids=completion.token_ids,
                stop_reason=completion.stop_reason,
            )
            yield RankingTask(id=response.id, prompt=prompt, responses=(response,))
