"""The policy judged on held-out prompts against its SFT model, and the report of the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from rlhf.config.schema import Config
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import PromptRecord
from rlhf.demo import rubric
from rlhf.evaluation import report
from rlhf.evaluation.answers import Answer, Answerer
from rlhf.evaluation.card import with_cards
from rlhf.evaluation.contest import background, baseline, judge_path
from rlhf.evaluation.judges import Grader, reward_model_judge
from rlhf.evaluation.policy import compare_rows
from rlhf.models.checkpoint import check_kind
from rlhf.runtime.distributed import (
    Runtime,
    StageResult,
    gather,
    in_order,
    once,
    own_part,
    own_turns,
)
from rlhf.runtime.files import write_text
from rlhf.runtime.manifest import read_manifest
from rlhf.runtime.metrics import progress
from rlhf.runtime.steps import Step, Summary, execute
from rlhf.training.fine_tune import fine_tune

STAGE = "evaluate"
DPO_BEFORE = "dpo sft"
"""The SFT model that DPO started from, where PPO started from another."""
NO_POLICIES = ("prompts", "judge")
"""Inputs of the judging that do not answer."""


def run(config: Config, runtime: Runtime) -> StageResult:
    """Write each round's `ppo/judge.jsonl`, `evaluate/judge_*.jsonl` and `report/`.

    With `evaluate.extra_sft`, the SFT model is first trained on for as many FLOPs as the last PPO
    has used. With `dpo`, its last model is judged against SFT, and PPO's against it.
    """
    made = [with_cards(execute(step, runtime), config, runtime) for step in steps(config, runtime)]
    result = made[-1]
    once(partial(_publish, config, runtime, result.directory))
    runtime.console.print(f"report: {runtime.run_dir.root / 'report' / 'index.html'}")
    return result


def steps(config: Config, runtime: Runtime) -> list[Step]:
    """The judging, after the further SFT where there is one."""
    before = [_extra_sft_step(config, runtime)] if config.evaluate.extra_sft else []
    return [*before, _judge_step(config, runtime)]


def _publish(config: Config, runtime: Runtime, judged: Path) -> None:
    for name, place in _places(config, runtime).items():
        write_text(place, (judged / name).read_text(encoding="utf-8"))
    report.write(runtime.run_dir.root)


def _extra_sft_step(config: Config, runtime: Runtime) -> Step:
    data, ppo = runtime.run_dir.data, runtime.stage_dir("ppo")
    return Step(
        key="evaluate/sft_extra",
        stage=STAGE,
        directory=runtime.run_dir.stage("evaluate/sft_extra"),
        sections=(config.sft, config.runtime.precision, config.seed),
        inputs={
            "model": baseline(config.ppo.actor, runtime),
            "train": data / "sft.jsonl",
            "held_out": data / "sft_eval.jsonl",
            "policy": ppo / "actor",
        },
        work=partial(_train_extra, config, runtime, ppo),
    )


def _train_extra(config: Config, runtime: Runtime, ppo: Path, step: Step) -> Summary:
    manifest = read_manifest(ppo)
    assert manifest is not None and manifest.status == "done", (
        "the actor exists, so PPO has finished"
    )
    budget = float(manifest.summary["flops"] or 0)
    return fine_tune(step, config, runtime, max_flops=budget)


def _judge_step(config: Config, runtime: Runtime) -> Step:
    run_dir = runtime.run_dir
    before = baseline(config.ppo.actor, runtime)
    inputs = {"prompts": run_dir.data / "prompts_eval.jsonl", "sft": before}
    for number in range(1, runtime.rounds + 1):
        inputs[f"ppo {number}"] = run_dir.stage("ppo", number, runtime.rounds) / "actor"
    if config.evaluate.extra_sft:
        inputs["sft_extra"] = run_dir.stage("evaluate/sft_extra")
    if config.dpo:
        inputs["dpo"] = run_dir.stage("dpo")
        if baseline(config.dpo.model, runtime) != before:
            inputs[DPO_BEFORE] = baseline(config.dpo.model, runtime)
    judging = judge_path(config, runtime)
    if judging is not None:
        inputs["judge"] = judging
    return Step(
        key=f"{STAGE}/policy",
        stage=STAGE,
        directory=run_dir.stage("evaluate/policy"),
        sections=(config.evaluate, config.demo, config.seed),
        inputs=inputs,
        work=partial(_judge_policies, config, runtime),
    )


def _judge_policies(config: Config, runtime: Runtime, step: Step) -> Summary:
    """Every policy answers the same prompts; each PPO model is compared with the SFT model."""
    if "judge" in step.inputs:
        check_kind(step.inputs["judge"], "reward model")  # here, not after hours of sampling
    prompts = list(read_jsonl(step.inputs["prompts"], PromptRecord))[: config.evaluate.prompts]
    policies = {name: path for name, path in step.inputs.items() if name not in NO_POLICIES}
    answers = {
        name: _answers(name, path, prompts, config, runtime) for name, path in policies.items()
    }
    # Loaded when the last policy has answered: one model at a time fits where two would not.
    chosen = judge(config, runtime)
    own = own_part(len(prompts))
    mine = {name: chosen.qualities(prompts[own], each[own]) for name, each in answers.items()}
    parts = gather(mine)
    qualities = {name: [*chain.from_iterable(part[name] for part in parts)] for name in answers}
    texts = {name: [answer.text for answer in each] for name, each in answers.items()}
    comparisons = {f"ppo_{n}.jsonl": ("sft", f"ppo {n}") for n in range(1, runtime.rounds + 1)}
    if "sft_extra" in texts:
        comparisons["sft_extra.jsonl"] = ("sft_extra", f"ppo {runtime.rounds}")
    if "dpo" in texts:
        comparisons["dpo.jsonl"] = (DPO_BEFORE if DPO_BEFORE in texts else "sft", "dpo")
        comparisons["ppo_dpo.jsonl"] = ("dpo", f"ppo {runtime.rounds}")
    for name, (before, after) in comparisons.items():
        rows = compare_rows(
            prompts,
            texts[before],
            texts[after],
            qualities[before],
            qualities[after],
            judge=chosen.name,
            simulated=chosen.simulated,
        )
        once(partial(write_jsonl, step.directory / name, rows))
    means = {f"mean quality {name}": sum(q) / len(q) for name, q in qualities.items()}
    return {"judge": chosen.name} | means


def _places(config: Config, runtime: Runtime) -> dict[str, Path]:
    """Where the verdicts belong in the run directory. The step keeps its own copy: PPO trained
    again to the same weights has an empty directory, and nothing to be judged anew."""
    run_dir, rounds = runtime.run_dir, runtime.rounds
    places = {
        f"ppo_{number}.jsonl": run_dir.stage("ppo", number, rounds) / "judge.jsonl"
        for number in range(1, rounds + 1)
    }
    others = ["sft_extra.jsonl"] if config.evaluate.extra_sft else []
    others += ["dpo.jsonl", "ppo_dpo.jsonl"] if config.dpo else []
    return places | {name: run_dir.stage("evaluate") / f"judge_{name}" for name in others}


def _answers(
    name: str, path: Path, prompts: list[PromptRecord], config: Config, runtime: Runtime
) -> list[Answer]:
    """Each policy's answers, sampled with the same random numbers."""
    answerer = Answerer.load(path, runtime)
    size = config.evaluate.batch_size
    answers: dict[int, list[Answer]] = {}
    with progress(f"evaluate {name}", runtime) as bar:
        for place, start in own_turns(range(0, len(prompts), size)):
            batch = prompts[start : start + size]
            generator = runtime.generator(f"evaluate:{start}")
            completions = answerer.complete(batch, config.evaluate.sampling, generator, size)
            answers[place] = [answerer.answer(completion) for completion in completions]
            bar.update(min(start + size, len(prompts)), len(prompts))
        every = in_order(answers)
        bar.update(len(prompts), len(prompts))  # the other processes' too
    return list(chain.from_iterable(every))


def judge(config: Config, runtime: Runtime) -> Grader:
    """The reward model of `judge_path`, or the demo's rubric."""
    path = judge_path(config, runtime)
    if path is None:
        return Grader("demo rubric without noise", True, _by_rubric)
    # Where a judge has graded in the place of people, it is no independent one either.
    graded = config.annotation.grading is not None and bool(config.evaluate.judge)
    known, size = background(path, config, runtime), config.evaluate.batch_size
    return reward_model_judge(path, runtime, size, known.note, graded or known.simulated)


def _by_rubric(prompts: Sequence[PromptRecord], answers: Sequence[Answer]) -> list[float]:
    return rubric.qualities(prompts, [answer.text for answer in answers])
