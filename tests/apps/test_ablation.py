"""Variants of one run: what they share, what they do not, what they leave."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from rlhf.apps import ablation
from rlhf.config.load import load_config, variant
from rlhf.data.jsonl import read_jsonl
from rlhf.evaluation.ablation import Outcome
from rlhf.evaluation.preference import PairRow
from tests.stages.worlds import miniature

ABLATION: dict[str, Any] = {
    "stage": "rm",
    "seeds": [0, 1],
    "baseline": "kway",
    "variants": {
        "fewer": {"collect.prompts": 10, "collect.eval_prompts": 4},
        "kway": {},
        "margins": {"rm.grade_margins": [0.0, 0.5, 1.0, 1.5, 2.0]},
    },
    "metrics": {"accuracy": "rm.accuracy", "tau": "rm.kendall.tau"},
}


def written(folder: Path, **changes: Any) -> Path:
    """A config file over that of a run in miniature."""
    miniature("base", folder)
    path = folder / "small.yaml"
    values = {"base": "base.yaml", "name": "small", "ablation": ABLATION | changes}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def pair_ids(run_dir: Path) -> list[str]:
    return [row.id for row in read_jsonl(run_dir / "rm/pairs.jsonl", PairRow)]


@pytest.mark.slow
def test_variants_share_what_comes_before_them_and_the_held_out_pairs(tmp_path, capsys):
    config = load_config(written(tmp_path))
    ablation.run(config, rehearsal=False)
    root = tmp_path / "small"
    assert not (root / "kway/collect").is_symlink() and (root / "margins/collect").is_symlink()
    assert (root / "fewer/sft/main").is_symlink() and not (root / "fewer/collect").is_symlink()
    runs = [root / name / f"seed-{seed}" for name in ABLATION["variants"] for seed in (0, 1)]
    assert all((run / "sft/main").is_symlink() and (run / "data").is_symlink() for run in runs)
    assert len({tuple(pair_ids(run)) for run in runs}) == 1
    assert len({(run / "rm/adapter_model.safetensors").read_bytes() for run in runs}) == len(runs)

    content = json.loads((root / "ablation.json").read_text("utf-8"))
    accuracies = [row["accuracy"] for row in content["runs"] if row["variant"] == "fewer"]
    row = next(row for row in content["table"] if row["variant"] == "fewer")
    assert row["metric"] == "accuracy" and row["value"] == pytest.approx(sum(accuracies) / 2)
    with (root / "ablation.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == 6
    assert (root / "ablation.md").read_text("utf-8").count("\n") == 2 + 3

    capsys.readouterr()
    times = {run: (run / "rm/manifest.json").stat().st_mtime_ns for run in runs}
    ablation.run(config, rehearsal=False)
    assert times == {run: (run / "rm/manifest.json").stat().st_mtime_ns for run in runs}
    assert capsys.readouterr().out.count("rm: finished before, reused") == len(runs)


def test_a_variant_is_a_run_in_the_ablations_directory(tmp_path):
    config = load_config(written(tmp_path))
    mine = variant(config, "fewer")
    assert mine.run_dir == tmp_path / "small" / "fewer"
    assert (mine.collect.prompts, mine.ablation) == (10, None)
    assert variant(config, "kway").collect == config.collect


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "other"}, "baseline = other is no variant; name one of fewer, kway"),
        ({"variants": {"kway": {}, "b": {"rm.los": 1}}}, "ablation.variants.b: unknown key rm.los"),
        ({"variants": {"kway": {}, "b": {"rm.epochs": "x"}}}, "rm.epochs = .x.; expected a number"),
        ({"seeds": [1, 1]}, "seeds: one is given twice"),
        (
            {"metrics": {"a": "accuracy"}},
            "a: accuracy is no place .* after rm; begin with one of sft,",
        ),
        ({"metrics": {"KL": "ppo.kl_last"}}, "KL: ppo.kl_last is no place of a number"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_config(written(tmp_path, **changes))


def test_a_mistyped_metric_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "_run_stages", lambda *_: pytest.fail("a stage ran"))
    config = load_config(written(tmp_path, metrics={"accuracy": "rm.acuracy"}))
    with pytest.raises(ValueError, match="report.json has no rm.acuracy; there are pairs, accu"):
        ablation.run(config, rehearsal=False)
    assert not (tmp_path / "small").exists()


def test_a_metric_that_a_run_lacks_is_told_after_the_first_one(tmp_path, monkeypatch):
    ran = []

    def outcome(config: Any, run_dir: Any, seed: int, *_: Any) -> Outcome:
        ran.append((config.name, seed))
        return Outcome(config.name, seed, {"rm": {"accuracy": 0.5}}, {})

    monkeypatch.setattr(ablation, "_run_stages", lambda *_: None)
    monkeypatch.setattr(ablation, "_outcome", outcome)
    config = load_config(written(tmp_path, metrics={"oracle": "rm.oracle_accuracy"}))
    with pytest.raises(ValueError, match="no rm.oracle_accuracy; there are accuracy"):
        ablation.run(config, rehearsal=False)
    assert ran == [("kway", 0)]


def test_one_round_only(tmp_path):
    with pytest.raises(ValueError, match="set rounds: 1"):
        load_config(written(tmp_path), ["rounds=2"])


@pytest.mark.slow
def test_policies_are_compared_with_dpo_of_the_same_seed(tmp_path):
    section = {
        "stage": "ppo",
        "baseline": "ppo",
        "variants": {"ppo": {}, "no-kl": {"ppo.kl.initial": 0.0, "ppo.kl.final": 0.0}},
        "metrics": {
            "against SFT": "ppo.judge.win_minus_lose",
            "against DPO": "ppo.judge_dpo.win_minus_lose",
            "DPO against SFT": "dpo.judge.win_minus_lose",
        },
    }
    path = written(tmp_path, **section)
    values = yaml.safe_load(path.read_text("utf-8"))
    values["dpo"] = {"max_steps": 2, "batch_size": 4, "microbatch_size": 4, "eval_every": 2}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    ablation.run(load_config(path), rehearsal=False)
    root = tmp_path / "small"
    models = {}
    for seed in (0, 1):
        mine, lent = root / f"ppo/seed-{seed}/dpo", root / f"no-kl/seed-{seed}/dpo"
        assert not mine.is_symlink() and lent.resolve() == mine.resolve()
        models[seed] = (mine / "model.safetensors").read_bytes()
        assert not (root / f"no-kl/seed-{seed}/ppo").is_symlink()
    assert models[0] != models[1] and not (root / "ppo/dpo").exists()

    content = json.loads((root / "ablation.json").read_text("utf-8"))
    levels = {row["variant"]: row["value"] for row in content["table"] if row["metric"][0] == "D"}
    assert levels["ppo"] == levels["no-kl"] is not None


def test_no_figure_is_cut_off_on_a_narrow_terminal():
    columns = ["variant", "accuracy", "less kway", "Kendall's tau", "less kway"]
    figures = ["0.333 (0.163 to 0.563)", "+0.000"]
    rows = [["kway", *figures, *figures], ["plackett-luce", *figures, *figures]]
    for width, lines in ((200, 2), (80, 4)):
        console = Console(width=width, record=True, file=StringIO())
        console.print(ablation._grid(columns, rows, console))
        text = console.export_text()
        assert "…" not in text
        assert len([line for line in text.splitlines() if figures[0] in line]) == lines
