"""`rlhf evaluate policy`: a run's policies, and others, judged against its SFT model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import PromptRecord
from rlhf.evaluation import policy_report, run_files
from rlhf.evaluation.answers import Answer, Answerer, Scorer
from rlhf.evaluation.contest import baseline, judge_path
from rlhf.evaluation.divergence import divergences
from rlhf.evaluation.endpoint import ChatJudge
from rlhf.evaluation.folder import check_folder
from rlhf.evaluation.judges import Judge
from rlhf.evaluation.kept import Kept, key_of
from rlhf.evaluation.policy import compare_rows
from rlhf.evaluation.policy_report import Judged
from rlhf.generation import Completion
from rlhf.models.checkpoint import check_checkpoint, check_kind, checkpoint_hash
from rlhf.runtime.distributed import Runtime, make_runtime
from rlhf.runtime.metrics import progress
from rlhf.runtime.quiet import quiet
from rlhf.runtime.run_dir import RunDir
from stages import evaluate

BASELINE = "SFT"


@dataclass(frozen=True)
class JudgeChoice:
    """Who judges. name: "rubric", a reward model's directory, the base URL of an OpenAI-compatible
    endpoint, or None for the judge of the run's own evaluation. model, key_variable: of an
    endpoint, and the environment variable that has its API key.
    """

    name: str | None = None
    model: str | None = None
    key_variable: str | None = None


@dataclass(frozen=True)
class Answers:
    """One model's answers to all prompts, in order."""

    said: list[Answer]
    completions: list[Completion]

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.said]


@quiet()
def evaluate_policy(
    run: Path, policies: Sequence[Path], choice: JudgeChoice, count: int | None, out: Path | None
) -> tuple[Path, dict[str, Any]]:
    """Judge the run's policies and `policies` against its SFT model, on its held-out prompts.

    What takes long is kept beside the report: models' answers in policy_answers.jsonl, an
    endpoint's replies in judge_replies.jsonl.

    Args:
        policies: further checkpoint directories.
        count: prompts; None: as many as the run's config says.
        out: the report's folder; None: evaluate/report in the run.

    Returns:
        The folder, and the contents of report.json.

    Raises:
        ValueError: no such run, no policy, or a judge that cannot judge; one line.
    """
    files = run_files.load(run)
    config, run_dir = load_config(run / "config.yaml"), RunDir(run)
    runtime = make_runtime(config, run_dir)
    folder = out or run_dir.stage("evaluate") / "report"
    check_folder(folder)
    judge = _judge(choice, config, runtime, folder.parent)
    named = _policies(run_dir, config.rounds, policies)
    paths = {BASELINE: baseline(config.ppo.actor, runtime), **named}
    for path in paths.values():
        check_checkpoint(path)
        check_kind(path, "language model")
    prompts = list(read_jsonl(run_dir.data / "prompts_eval.jsonl", PromptRecord))
    prompts = prompts[: count or config.evaluate.prompts]
    kept = Kept(folder.parent / "policy_answers.jsonl")
    answers = {
        name: _answers(name, path, prompts, config, runtime, kept) for name, path in paths.items()
    }
    judged = _judged(answers, prompts, judge, config, runtime)
    metrics = files.last.ppo_metrics
    return folder, policy_report.write(folder, BASELINE, judged, metrics, config.evaluate.samples)


def _policies(run_dir: RunDir, rounds: int, further: Sequence[Path]) -> dict[str, Path]:
    """By name, the run's last PPO model first."""
    own = {"PPO": run_dir.stage("ppo") / "actor", "DPO": run_dir.stage("dpo")}
    for number in range(1, rounds):
        own[f"PPO, round {number}"] = run_dir.stage("ppo", number, rounds) / "actor"
    found = {name: path for name, path in own.items() if (path / "config.json").is_file()}
    found |= {str(path): path for path in further}
    if not found:
        raise ValueError(
            f"{run_dir.root}: neither ppo/actor nor dpo has finished there; name a policy with "
            "--policy"
        )
    return found


def _judge(
    choice: JudgeChoice, config: Config, runtime: Runtime, kept: Path
) -> Callable[[], Judge]:
    """What loads it, checked already: there is not room for every model at once."""
    name = choice.name
    if name is not None and name.startswith(("http://", "https://")):
        endpoint = _endpoint(name, choice, kept, runtime)
        return lambda: endpoint
    if name == "rubric" and config.demo is None:
        raise ValueError("--judge rubric: it judges the demo's prompts only; name another judge")
    if name is not None:
        chosen = config.evaluate.model_copy(update={"judge": None if name == "rubric" else name})
        config = config.model_copy(update={"evaluate": chosen})
    path = judge_path(config, runtime)
    if path is not None:
        check_checkpoint(path)
        check_kind(path, "reward model")
    return partial(evaluate.judge, config, runtime)


def _endpoint(url: str, choice: JudgeChoice, kept: Path, runtime: Runtime) -> ChatJudge:
    if choice.model is None:
        raise ValueError(f"--judge {url}: name the model to ask for with --judge-model")
    key = _key(choice.key_variable) if choice.key_variable else None

    def report(done: int, total: int) -> None:
        if done == total or not done % 50:
            runtime.console.print(f"judge: {done} of {total} replies")

    replies = Kept(kept / "judge_replies.jsonl")
    return ChatJudge(url, choice.model, key, replies, report)


def _key(variable: str) -> str:
    """An API key. What is wrong with it is told without it."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"--judge-key {variable}: no such environment variable; set it")
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"--judge-key {variable}: what it holds is no API key: letters that are not ASCII, or "
            "a line break; set it to the key alone"
        )
    return key


def _answers(
    name: str,
    path: Path,
    prompts: Sequence[PromptRecord],
    config: Config,
    runtime: Runtime,
    kept: Kept,
) -> Answers:
    """Each model's answers, with the random numbers of the stage `evaluate`."""
    sampling, size = config.evaluate.sampling, config.evaluate.batch_size
    answerer, said, completions = None, list[Answer](), list[Completion]()
    with progress(f"answers of {name}", runtime) as bar:
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            asked = [prompt.model_dump(mode="json") for prompt in batch]
            settings = (sampling.model_dump(), runtime.seed, runtime.round, start)
            key = key_of(checkpoint_hash(path), asked, settings)
            if key not in kept:
                answerer = answerer or Answerer.load(path, runtime)
                generator = runtime.generator(f"evaluate:{start}")
                sampled = answerer.complete(batch, sampling, generator, size)
                kept.add(key, [{**asdict(each), "text": answerer.text(each)} for each in sampled])
            for found in kept[key]:
                completion = Completion(
                    tuple(found["token_ids"]), tuple(found["logprobs"]), found["stop_reason"]
                )
                said.append(Answer(found["text"], completion.ended))
                completions.append(completion)
            bar.update(len(said), len(prompts))
    return Answers(said, completions)


def _judged(
    answers: dict[str, Answers],
    prompts: Sequence[PromptRecord],
    load_judge: Callable[[], Judge],
    config: Config,
    runtime: Runtime,
) -> list[Judged]:
    """One model after another is in memory: the reference, PPO's reward model, the judge."""
    kl = _divergences(answers, prompts, config, runtime)
    scores = _proxy_scores(answers, prompts, config, runtime)
    judge, found = load_judge(), []
    before = answers[BASELINE]
    for name, after in answers.items():
        if name == BASELINE:
            continue
        qualities = judge.compare(prompts, before.said, after.said)
        rows = compare_rows(
            prompts,
            before.texts,
            after.texts,
            *qualities,
            judge=judge.name,
            simulated=judge.simulated,
        )
        proxy = (scores[BASELINE], scores[name]) if scores else None
        found.append(Judged(name, list(rows), kl[name], proxy))
    return found


def _divergences(
    answers: dict[str, Answers],
    prompts: Sequence[PromptRecord],
    config: Config,
    runtime: Runtime,
) -> dict[str, list[float]]:
    """By name, from the SFT model, over the prompts as they were answered."""
    reference = Answerer.load(baseline(config.ppo.actor, runtime), runtime)
    ids = reference.asked(prompts, config.evaluate.sampling)
    return {
        name: divergences(reference.model, ids, each.completions) for name, each in answers.items()
    }


def _proxy_scores(
    answers: dict[str, Answers],
    prompts: Sequence[PromptRecord],
    config: Config,
    runtime: Runtime,
) -> dict[str, list[float]]:
    """By the reward model that PPO was trained on; nothing where the run has none."""
    path = Path(config.ppo.reward_model or runtime.stage_dir("rm"))
    if not (path / "config.json").is_file():
        return {}
    scorer, size = Scorer.load(path, runtime), config.evaluate.batch_size
    return {name: scorer.scores(prompts, each.said, size) for name, each in answers.items()}
