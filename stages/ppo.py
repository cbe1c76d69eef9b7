"""Stage 3: PPO from the SFT model against the reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from torch import Tensor

from rlhf.config.schema import Config
from rlhf.data.chat_format import encode_prompt
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import PromptRecord
from rlhf.demo import rubric
from rlhf.evaluation.answers import Answer, Scorer
from rlhf.evaluation.card import with_cards
from rlhf.generation import Completion
from rlhf.models.checkpoint import score_statistics
from rlhf.models.roles import Roles, build_roles
from rlhf.models.spread import ZeroStage, check_roles
from rlhf.ppo.loop import OnAnswers, train
from rlhf.ppo.measure import Judge
from rlhf.ppo.pretraining import read_texts
from rlhf.runtime.distributed import Runtime, StageResult, is_main_process, world_size
from rlhf.runtime.metrics import MetricsLog, progress
from rlhf.runtime.steps import Step, Summary, execute
from rlhf.training.engine import offloads, read_engine, zero_stage

STAGE = "ppo"
KEPT = 4
"""Answers of an iteration that are kept to be looked at."""


def run(config: Config, runtime: Runtime) -> StageResult:
    """Train the actor, saved in `ppo/actor`, and the critic, saved in `ppo/critic`; with
    `ppo.ema_decay` also `ppo/actor_ema`, the average of the actor's weights."""
    check(config)
    result = execute(steps(config, runtime)[0], runtime)
    return with_cards(result, config, runtime)


def check(config: Config) -> None:
    """Raises ValueError for what PPO cannot do with so many processes, or with DeepSpeed's
    configuration; for the beginning of a run, before other stages have trained for it."""
    engine = read_engine(config.runtime)
    check_roles(config.ppo, world_size(), zero_stage(engine), offloads(engine))


def steps(config: Config, runtime: Runtime) -> list[Step]:
    """The one that the stage has."""
    mix, judge = config.ppo.pretraining, config.ppo.judge
    return [
        Step(
            key=runtime.key(STAGE),
            stage=STAGE,
            directory=runtime.stage_dir(STAGE),
            sections=(config.ppo, config.runtime.precision, config.seed),
            inputs={
                "actor": Path(config.ppo.actor or runtime.run_dir.stage("sft/main")),
                "reward_model": Path(config.ppo.reward_model or runtime.stage_dir("rm")),
                "prompts": runtime.run_dir.data / "prompts.jsonl",
                **({"pretraining": Path(mix.data)} if mix else {}),
                **({"judge": Path(judge)} if judge else {}),
            },
            work=partial(_train, config, runtime),
            # An alarm that stopped a run can be relaxed without losing what was trained.
            lasting=(
                config.ppo.model_dump(exclude={"monitors"}),
                config.runtime.precision,
                config.seed,
            ),
        )
    ]


def _train(config: Config, runtime: Runtime, step: Step) -> Summary:
    reward_model = step.inputs["reward_model"]
    roles = build_roles(
        config.ppo.roles,
        step.inputs["actor"],
        reward_model,
        tuning=config.ppo.tuning,
        dtype=runtime.dtype,
        device=runtime.device,
        zero=_zero(config),
    )
    records = list(read_jsonl(step.inputs["prompts"], PromptRecord))
    with (
        MetricsLog(step.directory, config.runtime.trackers) as metrics,
        progress(step.key, runtime) as bar,
    ):
        trained = train(
            roles,
            [encode_prompt(roles.spec, roles.tokenizer, record.messages) for record in records],
            config.ppo,
            score_statistics=score_statistics(reward_model),
            output_dir=step.directory,
            seed=runtime.seed,
            metrics=metrics,
            pretraining=read_texts(roles, config.ppo.pretraining),
            judge=_judge(config, runtime, roles, records),
            on_answers=_kept(metrics, roles, records),
            on_iteration=bar.update,
        )
    _save(roles, trained.averaged_actor, step.directory)
    return asdict(trained.summary)


def _save(roles: Roles, averaged_actor: Mapping[str, Tensor] | None, directory: Path) -> None:
    """The main process writes; weights that are spread are gathered, which all take part in."""
    with roles.gathered("actor"):
        if is_main_process():
            roles.save_actor(directory / "actor")
    with roles.gathered("critic"):
        if is_main_process():
            roles.save_critic(directory / "critic")
    if averaged_actor is not None:
        roles.load_actor_state(averaged_actor)
        with roles.gathered("actor"):
            if is_main_process():
                roles.save_actor(directory / "actor_ema")


def _zero(config: Config) -> ZeroStage | None:
    """How the weights are spread: by the stage that the DeepSpeed configuration names. One trunk
    for all roles is whole in every process."""
    if world_size() == 1 or config.ppo.roles == "shared":
        return None
    stages: dict[int | None, ZeroStage] = {2: 2, 3: 3}
    return stages.get(zero_stage(read_engine(config.runtime)))


def _kept(metrics: MetricsLog, roles: Roles, records: Sequence[PromptRecord]) -> OnAnswers:
    """Lays the first answers of every iteration down, for people to look at."""

    def keep(
        iteration: int,
        numbers: Sequence[int],
        completions: Sequence[Completion],
        scores: Sequence[float],
    ) -> None:
        first = list(zip(numbers, completions, scores, strict=True))[:KEPT]
        rows = [
            {
                "prompt": records[number].text,
                "response": completion.text(roles.tokenizer),
                "score": score,
                "ended": completion.ended,
            }
            for number, completion, score in first
        ]
        metrics.log_samples(iteration, rows)

    return keep


def _judge(
    config: Config, runtime: Runtime, roles: Roles, records: Sequence[PromptRecord]
) -> Judge | None:
    """The named reward model, or the demo's rubric where there is a demo."""
    named = config.ppo.judge
    scorer = Scorer.load(named, runtime) if named else None
    if scorer is None and config.demo is None:
        return None

    def qualities(numbers: Sequence[int], completions: Sequence[Completion]) -> list[float]:
        prompts = [records[number] for number in numbers]
        answers = [Answer(each.text(roles.tokenizer), each.ended) for each in completions]
        if scorer is not None:
            return scorer.scores(prompts, answers, config.ppo.rollout_microbatch)
        return rubric.qualities(prompts, [answer.text for answer in answers])

    return qualities
