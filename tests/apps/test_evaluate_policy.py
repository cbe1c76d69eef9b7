from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.apps.evaluate_policy import (
    JudgeChoice,
    _answers,
    _divergences,
    _key,
    evaluate_policy,
)
from rlhf.config.load import dump_config, load_config
from rlhf.data.records import Message, PromptRecord
from rlhf.evaluation.kept import Kept
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_reward_model, load_tokenizer
from rlhf.runtime.distributed import make_runtime
from rlhf.runtime.run_dir import RunDir

URL = "https://judge.example/v1"


def made(folder: Path, *overrides: str) -> Path:
    """A run directory in which nothing has run."""
    config = load_config("tiny", [f"output_dir={folder}", *overrides])
    config.run_dir.mkdir()
    (config.run_dir / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    return config.run_dir


def fails(run: Path, choice: JudgeChoice, *policies: Path) -> str:
    with pytest.raises(ValueError) as error:
        evaluate_policy(run, policies, choice, None, None)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_are_said_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "name a run directory" in fails(tmp_path / "nowhere", JudgeChoice())
    run = made(tmp_path)
    assert "--judge-model" in fails(run, JudgeChoice(URL))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert "NO_SUCH_KEY" in fails(run, JudgeChoice(URL, "m", "NO_SUCH_KEY"))
    assert "name a policy with --policy" in fails(run, JudgeChoice("rubric"))
    assert "no such directory" in fails(run, JudgeChoice("elsewhere/rm"))
    assert "no such directory" in fails(run, JudgeChoice("rubric"), Path("elsewhere/actor"))


def test_models_of_the_wrong_kind_are_refused_before_one_is_loaded(
    tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    run, base = made(tmp_path), checkpoint()
    shutil.copytree(base, run / "sft/main")
    reward = tmp_path / "reward"
    model = load_reward_model(base, dtype=torch.float32, device="cpu")
    save_reward_model(model, load_tokenizer(base), reward, score_mean=None, score_std=None)
    assert "a language model is needed" in fails(run, JudgeChoice("rubric"), reward)
    assert "a reward model is needed" in fails(run, JudgeChoice(str(base)), base)


def test_a_key_that_cannot_be_sent_is_named_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, judge = made(tmp_path), JudgeChoice(URL, "m", "JUDGE_KEY")
    for key in ("sk-secret密", "sk-secret\nX-More: 1", "sk-secret\x7f"):
        monkeypatch.setenv("JUDGE_KEY", key)
        told = fails(run, judge)
        assert told.startswith("--judge-key JUDGE_KEY: ") and "secret" not in told
    monkeypatch.setenv("JUDGE_KEY", "sk-secret\r")  # as a .env with Windows' line ends has it
    assert _key("JUDGE_KEY") == "sk-secret"
    assert "name a policy with --policy" in fails(run, judge)


def test_the_rubric_judges_the_demo_only(tmp_path: Path) -> None:
    run = made(tmp_path, "demo=null", "annotation.source=page")
    assert "demo's prompts only" in fails(run, JudgeChoice("rubric"))


def test_a_judge_that_is_not_there_is_said_by_the_name_of_ppos(
    tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    run = made(tmp_path, "demo=null", "annotation.source=page", f"ppo.reward_model={tmp_path}/y")
    checkpoint().rename(run / "rm")  # the run's own, which PPO has not learnt from
    assert fails(run, JudgeChoice()).startswith(f"{tmp_path}/y: no such directory")


def test_the_kl_is_over_the_prompt_that_was_answered(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Of a long prompt, what is left beside the answer: a model is no way from itself."""
    config = load_config("tiny", [f"output_dir={tmp_path}", "evaluate.sampling.max_new_tokens=16"])
    runtime = make_runtime(config, run_dir := RunDir(tmp_path / "run"))
    run_dir.stage("sft/main").parent.mkdir(parents=True)
    checkpoint().rename(run_dir.stage("sft/main"))
    text = (Message(role="user", content="hello world " * 60),)
    prompts = [PromptRecord(id="long", messages=text)]
    answers = _answers(
        "SFT", run_dir.stage("sft/main"), prompts, config, runtime, Kept(tmp_path / "kept.jsonl")
    )
    found = _divergences({"SFT": answers}, prompts, config, runtime)
    assert found["SFT"] == pytest.approx([0.0], abs=1e-4)
