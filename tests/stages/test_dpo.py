from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import rlhf.models  # noqa: F401  registers the classes
from rlhf.apps.evaluate_policy import JudgeChoice, evaluate_policy
from rlhf.config.load import load_config
from rlhf.data.jsonl import read_jsonl
from rlhf.evaluation.policy import JudgeRow
from tests.stages.worlds import call, miniature, statuses

DPO = {
    "max_steps": 4,
    "batch_size": 4,
    "microbatch_size": 4,
    "eval_every": 2,
    "tuning": {"method": "lora"},
}


@pytest.mark.slow
def test_dpo_on_the_pairs_of_the_reward_model_then_ppo_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = miniature("safe", tmp_path, dpo=DPO, rounds=1)
    call(config, "ppo.actor=run://dpo", "rm.model=run://dpo")
    run_dir = tmp_path / "safe"
    assert statuses(run_dir)["dpo"] == "done"
    manifest = json.loads((run_dir / "manifest.json").read_text("utf-8"))["stages"]
    assert manifest["ppo"]["inputs"]["actor"]["path"] == str(run_dir / "dpo")

    # The same pairs, from the same sources, as the reward model.
    summaries = {
        name: json.loads((run_dir / name / "summary.json").read_text("utf-8"))
        for name in ("dpo", "rm")
    }
    assert summaries["dpo"]["pairs"] == summaries["rm"]["pairs"] > 0
    provenance = [(run_dir / name / "provenance.json").read_bytes() for name in ("dpo", "rm")]
    assert provenance[0] == provenance[1]
    AutoModelForCausalLM.from_pretrained(run_dir / "dpo")

    # It is judged as the policy is, against SFT, and PPO against it.
    rows = list(read_jsonl(run_dir / "evaluate" / "judge_dpo.jsonl", JudgeRow))
    against = list(read_jsonl(run_dir / "evaluate" / "judge_ppo_dpo.jsonl", JudgeRow))
    ppo = list(read_jsonl(run_dir / "ppo" / "judge.jsonl", JudgeRow))
    assert [row.before for row in rows] == [row.before for row in ppo]
    assert [row.after for row in rows] == [row.before for row in against]
    assert [row.after for row in against] == [row.after for row in ppo]
    report = json.loads((run_dir / "report" / "report.json").read_text("utf-8"))
    assert report["dpo"]["accuracy"] == summaries["dpo"]["accuracy"]
    assert report["dpo"]["judge"]["prompts"] == len(rows)
    assert report["ppo"]["judge_dpo"]["prompts"] == len(rows)
    page = (run_dir / "report" / "index.html").read_text("utf-8")
    assert "<th>DPO against SFT<" in page and "<th>PPO against DPO<" in page

    capsys.readouterr()
    call(config, "ppo.actor=run://dpo", "rm.model=run://dpo", only="dpo")
    assert "dpo: finished before, reused" in capsys.readouterr().out

    # `rlhf evaluate policy` judges the very same answers, and samples them once.
    folder, found = evaluate_policy(run_dir, [], JudgeChoice(), None, None)
    assert folder == run_dir / "evaluate" / "report" and (folder / "index.html").is_file()
    assert [each["name"] for each in found["policies"]] == ["PPO", "DPO"]
    for each, verdicts in zip(found["policies"], (ppo, rows), strict=True):
        assert {name: each[name] for name in ("win", "tie", "lose")} == {
            name: sum(row.verdict == name for row in verdicts) for name in ("win", "tie", "lose")
        }
        assert each["kl"] > 0 and each["proxy"]["prompts"] == len(verdicts)
    answers = (run_dir / "evaluate" / "policy_answers.jsonl").read_bytes()
    proxy = JudgeChoice(str(run_dir / "rm"))
    _, again = evaluate_policy(run_dir, [run_dir / "sft" / "main"], proxy, None, None)
    assert again["policies"][2]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert again["policies"][2]["tie"] == len(rows)
    assert again["policies"][0]["proxy"]["win"] == again["policies"][0]["win"]
    assert (run_dir / "evaluate" / "policy_answers.jsonl").read_bytes() == answers


def test_a_run_without_it_says_how_to_switch_it_on(tmp_path: Path) -> None:
    config = miniature("plain", tmp_path)
    with pytest.raises(ValueError, match=r"--only dpo: this config has no DPO; add a section"):
        call(config, only="dpo")


def test_run_dpo_needs_one_round() -> None:
    with pytest.raises(ValueError, match="run://dpo is the last round's"):
        load_config("tiny", ["dpo={}", "ppo.actor=run://dpo"])
    config = load_config("tiny", ["dpo={}", "ppo.actor=run://dpo", "rounds=1"])
    assert config.dpo is not None and config.dpo.beta == 0.1
