"""Which answers of a policy were cut off is told to whoever scores them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf.apps import best_of_n, evaluate_policy
from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord
from rlhf.evaluation import contest, judges
from rlhf.evaluation.answers import Answer, Answerer, Scorer
from rlhf.evaluation.judges import Grader
from rlhf.evaluation.kept import Kept, key_of
from rlhf.generation import Completion
from rlhf.runtime.distributed import Runtime, make_runtime
from rlhf.runtime.manifest import StageManifest
from rlhf.runtime.run_dir import RunDir
from rlhf.runtime.steps import Step, execute
from stages import evaluate, ppo

PROMPTS = [
    PromptRecord(id=f"p{n}", messages=(Message(role="user", content=f"Q{n}"),)) for n in range(5)
]
SAID = [
    Answer("yes"),
    Answer("ye", ended=False),
    Answer("no"),
    Answer("n", ended=False),
    Answer(""),
]
COMPLETIONS = [
    Completion((n, 2) if said.ended else (n,), (0.0, 0.0), "eos" if said.ended else "length")
    for n, said in enumerate(SAID)
]


class Spoken:
    """Completions whose first id is the number of what they say."""

    def __init__(self) -> None:
        self.given = iter(COMPLETIONS * 2)

    def complete(self, prompts: Sequence[PromptRecord], *how: Any) -> list[Completion]:
        return [next(self.given) for _ in prompts]

    def text(self, completion: Completion) -> str:
        return SAID[completion.token_ids[0]].text

    def answer(self, completion: Completion) -> Answer:
        return Answerer.answer(self, completion)  # type: ignore[arg-type]


def half(prompts: Sequence[PromptRecord], answers: Sequence[Answer], *how: Any) -> list[float]:
    """An answer that was cut off is half as good as it is long."""
    return [len(answer.text) / (1 if answer.ended else 2) for answer in answers]


QUALITIES = [3.0, 1.0, 2.0, 0.5, 0.0]


@pytest.fixture
def config() -> Config:
    return load_config("tiny", ["evaluate.batch_size=2"])


@pytest.fixture
def runtime(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(Answerer, "load", lambda *where: Spoken())
    monkeypatch.setattr(Scorer, "load", lambda *where: SimpleNamespace(scores=half))
    return make_runtime(config, RunDir(tmp_path))


def test_a_reward_model_as_the_judge(config: Config, runtime: Runtime, tmp_path: Path) -> None:
    said = evaluate._answers("sft", tmp_path, PROMPTS, config, runtime)
    assert said == SAID
    grader = judges.reward_model_judge(tmp_path, runtime, 2)
    assert grader.compare(PROMPTS, said, SAID[::-1]) == (QUALITIES, QUALITIES[::-1])


def test_a_reward_model_that_watches_ppo(runtime: Runtime, tmp_path: Path) -> None:
    config = load_config("tiny", [f"ppo.judge={tmp_path}"])
    tokenizer = SimpleNamespace(decode=lambda ids, **how: SAID[ids[0]].text)
    roles: Any = SimpleNamespace(tokenizer=tokenizer)
    qualities = ppo._judge(config, runtime, roles, PROMPTS)
    assert qualities is not None and qualities(range(5), COMPLETIONS) == QUALITIES


def test_the_rubric_reads_the_text_alone(
    config: Config, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate.rubric, "quality", lambda prompt, text: float(len(text)))
    grader = evaluate.judge(config, runtime)
    assert grader.qualities(PROMPTS, SAID) == [3.0, 2.0, 2.0, 1.0, 0.0]


def test_the_reward_model_of_ppo_judges_under_its_name(
    config: Config, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    monkeypatch.setattr(Scorer, "load", lambda path, runtime: loaded.append(path))
    changes = ["demo=null", "annotation.source=page", "ppo.reward_model=runs/y/rm"]
    grader = evaluate.judge(load_config("tiny", changes), runtime)
    assert loaded == [Path("runs/y/rm")] and not grader.simulated
    assert grader.name == "reward model runs/y/rm (PPO trained on it: no independent judge)"


def test_what_a_judge_learnt_from_stands_behind_its_name(
    config: Config, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "learnt_from_simulated", lambda model: True)

    def named(judge: Path) -> tuple[str, bool]:
        grader = evaluate.judge(load_config("tiny", [f"evaluate.judge={judge}"]), runtime)
        return grader.name.removeprefix(f"reward model {judge} "), grader.simulated

    assert named(tmp_path / "other") == ("(trained on simulated rankings)", True)
    own = "(PPO trained on it: no independent judge; trained on simulated rankings)"
    assert named(runtime.run_dir.stage("rm")) == (own, True)


def test_ppo_and_dpo_are_compared_with_the_sft_models_that_they_started_from(
    runtime: Runtime, tmp_path: Path
) -> None:
    own, other = runtime.run_dir.stage("sft/main"), tmp_path / "x/sft/main"
    other.mkdir(parents=True)
    manifest = StageManifest(
        stage="sft", status="done", config_hash="", inputs={}, versions={}, started=""
    )
    (other / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")

    def before(*changes: str) -> tuple[Path, Path, Path | None]:
        config = load_config("tiny", ["dpo={}", "evaluate.extra_sft=true", *changes])
        extra, judging = evaluate.steps(config, runtime)
        return extra.inputs["model"], judging.inputs["sft"], judging.inputs.get("dpo sft")

    learnt = runtime.run_dir.stage("dpo")
    assert before() == before(f"ppo.actor={learnt}") == (own, own, None)
    assert before(f"ppo.actor={other}") == (other, other, own)
    assert before(f"ppo.actor={other}", f"dpo.model={other}") == (other, other, None)
    assert before(f"dpo.model={other}") == (own, own, other)


def judged_by_ppos(runtime: Runtime) -> Step:
    """The judging, with all that it reads but the reward model of PPO."""
    run_dir = runtime.run_dir
    write_jsonl(run_dir.data / "prompts_eval.jsonl", PROMPTS)
    for policy in ("sft/main", "rounds/1/ppo/actor", "ppo/actor"):
        (run_dir.root / policy).mkdir(parents=True)
    changes = ["demo=null", "annotation.source=page", "evaluate.extra_sft=false"]
    config = load_config("tiny", [*changes, "dpo=null", "evaluate.batch_size=2"])
    return evaluate.steps(config, runtime)[-1]


def weights(folder: Path, text: str, architecture: str = "SequenceClassification") -> None:
    folder.mkdir(exist_ok=True)
    values = {"model_type": "baichuan", "architectures": [f"BaichuanFor{architecture}"]}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "model.safetensors").write_text(text, encoding="utf-8")


def test_verdicts_are_reused_while_the_judge_is_the_same(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, asked = judged_by_ppos(runtime), []
    monkeypatch.setattr(Answerer, "load", lambda path, *how: asked.append(path.name) or Spoken())
    weights(runtime.run_dir.stage("rm"), "first")
    name = f"reward model {step.inputs['judge']} (PPO trained on it: no independent judge)"
    means = {f"mean quality {name}": 1.3 for name in ("sft", "ppo 1", "ppo 2")}  # 6.5 / 5
    found = {"judge": name, **means}
    assert execute(step, runtime).summary == execute(step, runtime).summary == found
    assert asked == ["main", "actor", "actor"]  # the judge answers nothing
    weights(runtime.run_dir.stage("rm"), "second")
    execute(step, runtime)
    assert asked == ["main", "actor", "actor"] * 2


def test_a_judge_that_cannot_judge_is_told_before_anyone_answers(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, judge = judged_by_ppos(runtime), runtime.run_dir.stage("rm")
    monkeypatch.setattr(Answerer, "load", None)
    with pytest.raises(ValueError, match=r"rm \(judge\), which is not there; run stage rm first"):
        execute(step, runtime)
    weights(judge, "of a language model", "CausalLM")
    with pytest.raises(ValueError, match="a language model, and a reward model is needed"):
        execute(step, runtime)
    manifest = StageManifest(
        stage="rm", status="running", config_hash="", inputs={}, versions={}, started=""
    )
    (judge / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    with pytest.raises(ValueError, match="stage rm has not finished there; go on with it first"):
        execute(step, runtime)


def test_the_rubric_is_no_input(config: Config, runtime: Runtime) -> None:
    assert "judge" not in evaluate.steps(config, runtime)[-1].inputs


def test_answers_that_an_earlier_version_kept(
    config: Config, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files say why an answer ended; it asked as if all had ended by themselves."""
    monkeypatch.setattr(evaluate_policy, "checkpoint_hash", lambda path: "weights")
    kept = Kept(tmp_path / "policy_answers.jsonl")
    for start in range(0, 5, 2):
        asked = [prompt.model_dump(mode="json") for prompt in PROMPTS[start : start + 2]]
        settings = (config.evaluate.sampling.model_dump(), runtime.seed, runtime.round, start)
        rows = list(zip(COMPLETIONS, SAID, strict=True))[start : start + 2]
        kept.add(
            key_of("weights", asked, settings),
            [{**asdict(completion), "text": said.text} for completion, said in rows],
        )
    monkeypatch.setattr(Answerer, "load", None)  # nothing is sampled again
    found = evaluate_policy._answers("SFT", tmp_path, PROMPTS, config, runtime, kept)
    assert found.said == SAID and found.completions == COMPLETIONS
    assert found.texts == [answer.text for answer in SAID]

    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    config = load_config("tiny", [f"ppo.reward_model={tmp_path}"])
    scores = evaluate_policy._proxy_scores({"SFT": found}, PROMPTS, config, runtime)
    assert scores == {"SFT": QUALITIES}


def test_the_best_of_n(config: Config, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "judge", lambda *run: Grader("half", False, half))
    spoken: Any = Spoken()
    rows = list(best_of_n._rows(PROMPTS[:2], 5, spoken, config, runtime))
    assert [row.score for row in rows] == [row.quality for row in rows] == QUALITIES * 2
    assert [row.text for row in rows] == [answer.text for answer in SAID] * 2
