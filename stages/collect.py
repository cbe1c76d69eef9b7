"""Responses for the reward model: sampled from the family, ranked by `annotation.source`."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from shlex import quote
from typing import Any

from rlhf.config.schema import BalanceSection, Config, SourceEntry
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import PromptRecord, RankingRecord, RankingTask, Response
from rlhf.data.taxonomy import balanced_sample
from rlhf.demo import annotators
from rlhf.evaluation.answers import Answer, Scorer
from rlhf.evaluation.sampling import Sampler
from rlhf.models.checkpoint import score_statistics
from rlhf.runtime.distributed import Runtime, StageResult, gather, once, own_part
from rlhf.runtime.steps import Step, Summary, Waiting, execute

STAGE = "collect"
SPLITS = {"": "prompts", "eval_": "prompts_eval"}
"""Prefix of the files written here -> the prompts they come from."""
GIVEN = {"": "rankings.jsonl", "eval_": "rankings_eval.jsonl"}
"""Prefix of the files written here -> the user's own rankings, split from `data.rankings`."""


def run(config: Config, runtime: Runtime) -> StageResult:
    """Sample tasks.jsonl and eval_tasks.jsonl; rank them into rankings.jsonl, eval_rankings.jsonl.

    With `annotation.source: page` the result waits until annotators' exports lie beside the tasks.
    """
    return execute(steps(config, runtime)[0], runtime)


def steps(config: Config, runtime: Runtime) -> list[Step]:
    """The one that the stage has."""
    inputs: dict[str, Path] = {}
    # The sources are inputs: what they hold counts, not where they lie.
    collected = config.collect.model_dump(exclude={"models": {"__all__": {"path"}}})
    sections: list[Any] = [collected, config.annotation, config.demo, config.seed]
    if config.annotation.source == "file":
        inputs |= {f"{split}rankings": runtime.run_dir.data / name for split, name in GIVEN.items()}
    else:
        inputs |= {name: runtime.run_dir.data / f"{name}.jsonl" for name in SPLITS.values()}
        for index, entry in enumerate(sources(config, runtime)):
            inputs[f"source {index}"] = Path(entry.path)
    if config.annotation.judge:
        inputs["judge"] = Path(config.annotation.judge)
    return [
        Step(
            key=runtime.key(STAGE),
            stage=STAGE,
            directory=runtime.stage_dir(STAGE),
            sections=tuple(sections),
            inputs=inputs,
            work=partial(_collect, config, runtime),
        )
    ]


def sources(config: Config, runtime: Runtime) -> list[SourceEntry]:
    """The configured models, else this run's SFT models; later rounds add the last PPO model."""
    entries = list(config.collect.models) or [
        SourceEntry(path=str(runtime.run_dir.stage("sft") / name), size=entry.size, stage="sft")
        for name, entry in config.models.items()
    ]
    if runtime.round > 1:
        previous = runtime.run_dir.stage("ppo", runtime.round - 1, runtime.rounds) / "actor"
        entries.append(SourceEntry(path=str(previous), size=config.main.size, stage="ppo"))
    return entries


def _collect(config: Config, runtime: Runtime, step: Step) -> Summary:
    if config.annotation.source == "file":
        once(partial(_copy_given, step))
    else:
        counts = {"": config.collect.prompts, "eval_": config.collect.eval_prompts}
        seed, balance = runtime.seed + runtime.round, config.collect.balance
        prompts = {
            split: choose(step.inputs[name], counts[split], balance, seed)
            for split, name in SPLITS.items()
        }
        for split, tasks in _sample(prompts, config, runtime, step).items():
            once(partial(write_jsonl, step.directory / f"{split}tasks.jsonl", tasks))
        for split in SPLITS:
            _rank(split, config, runtime, step)
    rankings = list(read_jsonl(_rankings(step, ""), RankingRecord))
    held_out = list(read_jsonl(_rankings(step, "eval_"), RankingRecord))
    return {
        "prompts": len(rankings),
        "responses": sum(len(record.responses) for record in rankings),
        "held_out_prompts": len(held_out),
        "annotator": rankings[0].annotator,
    }


def _copy_given(step: Step) -> None:
    for split in GIVEN:
        shutil.copyfile(step.inputs[f"{split}rankings"], _rankings(step, split))


def choose(path: Path, count: int, balance: BalanceSection | None, seed: int) -> list[PromptRecord]:
    """A seeded sample of the prompts, or all where there are fewer."""
    prompts = list(read_jsonl(path, PromptRecord))
    count = min(count, len(prompts))
    if balance is None:
        return random.Random(seed).sample(prompts, count)
    categories = [prompt.category for prompt in prompts]
    chosen = balanced_sample(
        categories, count, level=balance.level, temperature=balance.temperature, seed=seed
    )
    return [prompts[index] for index in chosen]


def _sample(
    prompts: Mapping[str, Sequence[PromptRecord]], config: Config, runtime: Runtime, step: Step
) -> dict[str, list[RankingTask]]:
    """K responses a prompt of each split, dealt over the sources in turn so that each answers
    equally often. A source is loaded once, for all splits."""
    entries, wanted = sources(config, runtime), config.collect.responses_per_prompt
    answers: dict[tuple[str, str], list[Response]] = {}
    for index, entry in enumerate(entries):
        sampler = Sampler(entry, config.collect.sampling, config.collect.batch_size, runtime)
        for split, asked in prompts.items():
            mine = [
                (prompt, turn)
                for number, prompt in enumerate(asked)
                for turn in range(wanted)
                if (number + turn) % len(entries) == index
            ]
            title = f"Collect {split.replace('_', ' ')}{entry.size} {entry.stage}"
            for part in sampler.parts(mine, step.directory / "parts" / f"{split}{index}", title):
                for task in part:
                    answers.setdefault((split, task.prompt.id), []).extend(task.responses)
    return {
        split: [
            RankingTask(
                id=f"round-{runtime.round}/{prompt.id}",
                prompt=prompt,
                responses=tuple(answers[split, prompt.id]),
            )
            for prompt in asked
        ]
        for split, asked in prompts.items()
    }


def _rank(split: str, config: Config, runtime: Runtime, step: Step) -> None:
    """Turn a split's tasks into rankings, or raise Waiting when people have to do it."""
    tasks = step.directory / f"{split}tasks.jsonl"
    rankings = _rankings(step, split)
    source, seed = config.annotation.source, runtime.seed + runtime.round
    if source == "simulated":
        assert config.demo is not None, "the schema asks for it"
        noise = config.demo.annotator_noise
        marked = annotators.annotate(read_jsonl(tasks, RankingTask), noise, seed)
        once(partial(write_jsonl, rankings, marked))
    elif source == "judge":
        whole = list(read_jsonl(tasks, RankingTask))
        part = whole[own_part(len(whole))]
        mine = list(rank_by_judge(part, step.inputs["judge"], config, runtime))
        once(partial(write_jsonl, rankings, chain.from_iterable(gather(mine))))
    elif not rankings.is_file():
        raise Waiting(
            f"waiting for rankings: rlhf annotate {quote(str(step.directory))}, "
            "then the same command again"
        )


def _rankings(step: Step, split: str) -> Path:
    return step.directory / f"{split}rankings.jsonl"


def rank_by_judge(
    tasks: Sequence[RankingTask], judge: Path, config: Config, runtime: Runtime
) -> Iterator[RankingRecord]:
    """Ranks by a reward model's scores; grades only where it stands in for people.

    It reads `collect.batch_size` responses at once, whatever their prompts.
    """
    scorer, grading = Scorer.load(judge, runtime), config.annotation.grading
    spread = score_statistics(judge)[1]
    if grading is not None and not spread:
        raise ValueError(
            f"{judge}: the deviation of its scores is not known, and annotation.grading counts in "
            "it; train it with rlhf rm, or set annotation.grading to null"
        )
    prompts = [task.prompt for task in tasks for _ in task.responses]
    answers = [
        Answer(response.text, ended=response.stop_reason != "length")
        for task in tasks
        for response in task.responses
    ]
    found = iter(scorer.scores(prompts, answers, config.collect.batch_size))
    for task in tasks:
        scores = list(islice(found, len(task.responses)))
        distinct = sorted(set(scores), reverse=True)
        ranks, grades = tuple(distinct.index(score) + 1 for score in scores), tuple[int, ...]()
        if grading is not None and spread:
            seed = runtime.seed + runtime.round
            ranks, grades = annotators.judge_annotates(task, scores, spread, grading, seed)
        yield RankingRecord(
            id=task.id,
            prompt=task.prompt,
            responses=task.responses,
            ranks=ranks,
            grades=grades,
            annotator=f"judge {judge}" if grading is None else f"simulated: judge {judge}",
            simulated=grading is not None,
        )
