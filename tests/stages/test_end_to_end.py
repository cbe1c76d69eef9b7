"""The whole pipeline in miniature: what a run leaves, reuses, starts afresh and survives."""

from __future__ import annotations

import gc
import json
import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from rlhf.apps.dry_run import dry_run
from rlhf.config.load import dump_config, load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import RankingRecord, RankingTask
from rlhf.models.load import load_reward_model
from tests.stages.worlds import call, miniature, run_killed, statuses

pytestmark = pytest.mark.slow

MODEL = ("config.json", "tokenizer.model", "tokenizer_config.json", "model.safetensors")
CONTRACT = [
    "config.yaml",
    "manifest.json",
    *(f"sft/main/{name}" for name in (*MODEL, "metrics.jsonl", "manifest.json", "summary.json")),
    "collect/manifest.json",
    "collect/tasks.jsonl",
    "collect/eval_tasks.jsonl",
    "collect/rankings.jsonl",
    "collect/eval_rankings.jsonl",
    "rm/manifest.json",
    "rm/metrics.jsonl",
    "rm/pairs.jsonl",
    "rm/adapter_model.safetensors",
    "ppo/manifest.json",
    "ppo/metrics.jsonl",
    "ppo/judge.jsonl",
    *(f"ppo/actor/{name}" for name in MODEL),
    *(f"ppo/critic/{name}" for name in MODEL),
    "evaluate/judge_sft_extra.jsonl",
    "report/index.html",
    "report/report.json",
    "report/rm_by_grade.png",
    "report/rm_by_margin.png",
    *(f"{model}/README.md" for model in ("sft/main", "rm", "ppo/actor", "ppo/critic")),
]
STAGES = ["sft/main", "collect", "rm", "ppo", "evaluate/sft_extra", "evaluate/policy"]
RESULTS = (
    "sft/main/model.safetensors",
    "sft/main/metrics.jsonl",
    "collect/rankings.jsonl",
    "collect/eval_rankings.jsonl",
    "rm/adapter_model.safetensors",
    "rm/metrics.jsonl",
    "rm/pairs.jsonl",
    "ppo/actor/model.safetensors",
    "ppo/critic/model.safetensors",
    "ppo/metrics.jsonl",
    "ppo/judge.jsonl",
    "evaluate/judge_sft_extra.jsonl",
)


@pytest.fixture
def copy_of(finished, tmp_path):
    """Its directory under another root, with the config to go on there."""

    def copy() -> tuple[Path, Path]:
        run_dir = tmp_path / "mini"
        shutil.copytree(finished.parent / "mini", run_dir)
        values = load_config(finished).model_dump() | {"output_dir": str(tmp_path)}
        config = tmp_path / "mini.yaml"
        config.write_text(dump_config(Config.model_validate(values)), encoding="utf-8")
        return config, run_dir

    return copy


def manifests(run_dir: Path) -> dict[str, str]:
    return {key: (run_dir / key / "manifest.json").read_text("utf-8") for key in STAGES}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [key for key in STAGES if before[key] != after[key]]


def test_a_run_leaves_every_file_of_the_contract(finished):
    run_dir = finished.parent / "mini"
    assert [name for name in CONTRACT if not (run_dir / name).is_file()] == []
    assert statuses(run_dir) == dict.fromkeys(STAGES, "done")
    report = json.loads((run_dir / "report/report.json").read_text("utf-8"))
    assert {"sft", "rm", "ppo"} <= set(report) and report["missing"] == []
    judge = report["ppo"]["judge"]
    assert judge["win"] + judge["tie"] + judge["lose"] == 8
    manifest = json.loads((run_dir / "ppo/manifest.json").read_text("utf-8"))
    assert set(manifest["inputs"]) == {"actor", "reward_model", "prompts"}
    assert {"actor", "critic"} <= set(manifest["outputs"])


def test_a_second_call_reuses_everything(copy_of, capsys):
    """Also at another place: hashes are of content."""
    config, run_dir = copy_of()
    before = manifests(run_dir)
    call(config)
    assert changed(before, manifests(run_dir)) == []
    assert capsys.readouterr().out.count("finished before, reused") == len(STAGES)


def test_a_dry_run_foretells_and_writes_nothing(finished, capsys):
    run_dir = finished.parent / "mini"
    files = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}

    def foretold(*overrides: str) -> tuple[list[str], str]:
        config = load_config(finished, overrides)
        dry_run(config, gpus=1, start=None, only=None, redo=None, rehearsal=False)
        output = capsys.readouterr().out
        rows = [row.split("│")[1:3] for row in output.splitlines() if row.startswith("│")]
        actions = {step.strip(): action.strip() for step, action in rows}
        return [actions[step] for step in STAGES], output

    assert foretold()[0] == ["reused"] * len(STAGES)
    actions, output = foretold("ppo.clip=0.15")
    assert actions == ["reused"] * 3 + ["run"] * 3
    assert "\nppo.clip: 0.1 -> 0.15\n" in output and "prepared" in output
    rounds = [row for row in foretold("rounds=2")[1].splitlines() if "rounds/1/collect" in row]
    assert len(rounds) == 1 and "reused" in rounds[0]
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == files


def test_a_further_round_keeps_the_first(copy_of, capsys):
    config, run_dir = copy_of()
    before, stages = manifests(run_dir), ("collect", "rm", "ppo")
    call(config, "rounds=2")
    for stage in stages:
        kept = (run_dir / "rounds/1" / stage / "manifest.json").read_text("utf-8")
        assert kept == before[stage]
    assert set(stages) < set(changed(before, manifests(run_dir)))
    capsys.readouterr()
    call(config, "rounds=2")
    assert capsys.readouterr().out.count("finished before, reused") == len(STAGES) + len(stages)


def test_redo_sets_the_old_result_aside_and_keeps_what_came_before(copy_of, capsys):
    config, run_dir = copy_of()
    before, judged = manifests(run_dir), (run_dir / "ppo/judge.jsonl").read_bytes()
    call(config, redo="ppo")
    assert "ppo" in changed(before, manifests(run_dir))
    assert not set(changed(before, manifests(run_dir))) & {"sft/main", "collect", "rm"}
    assert (run_dir / "aside/ppo/actor/model.safetensors").is_file()
    out = capsys.readouterr().out
    assert "sft/main" not in out and "collect" not in out
    # The same seed gives the same policy: its verdicts stand, and lie in the new directory too.
    assert (run_dir / "ppo/judge.jsonl").read_bytes() == judged


def test_a_changed_key_runs_its_stage_and_what_follows(copy_of):
    config, run_dir = copy_of()
    before = manifests(run_dir)
    call(config, "ppo.kl.initial=0.5", "ppo.kl.final=0.5")
    assert changed(before, manifests(run_dir)) == STAGES[3:]
    assert (run_dir / "aside/ppo/metrics.jsonl").is_file()
    first = json.loads((run_dir / "ppo/metrics.jsonl").read_text("utf-8").splitlines()[0])
    assert first["kl_coef"] == 0.5


def test_only_runs_one_stage(copy_of):
    config, run_dir = copy_of()
    before = manifests(run_dir)
    call(config, "rm.max_steps=2", only="rm")
    assert changed(before, manifests(run_dir)) == ["rm"]
    with pytest.raises(ValueError, match="stage ppo has not finished|--from ppo"):
        shutil.rmtree(run_dir / "ppo")
        call(config, only="evaluate")


def test_the_trained_reward_model_is_gone_before_the_saved_one_comes(copy_of, monkeypatch):
    config, _ = copy_of()
    there: list[int] = []

    def load(*arguments, **options):
        there.append(sum(isinstance(each, PreTrainedModel) for each in gc.get_objects()))
        return load_reward_model(*arguments, **options)

    monkeypatch.setattr("stages.rm.load_reward_model", load)
    call(config, "rm.max_steps=2", only="rm")
    before, after = there
    assert after == before


def test_a_stage_without_its_input_names_the_one_to_run(tmp_path):
    config = miniature("fresh", tmp_path)
    with pytest.raises(ValueError, match=r"rm needs .*; run stage \w+ first: --from \w+$"):
        call(config, only="rm")


def test_a_killed_run_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch):
    config = miniature("killed", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stages.worlds"])
    for stage, target in (
        ("sft/main", "checkpoint-4/complete.json"),
        ("collect", "collect/parts/1/0.jsonl"),
        ("rm", "rm/checkpoints/checkpoint-4/complete.json"),
        ("ppo", "step-000002"),
        ("ppo", "ppo/summary.json"),
    ):
        process = context.Process(target=run_killed, args=(config, target))
        process.start()
        process.join(timeout=120)
        assert process.exitcode == -signal.SIGKILL, target
        assert statuses(tmp_path / "killed")[stage] == "running", target
    call(config)
    whole, pieced = finished.parent / "mini", tmp_path / "killed"
    differing = [n for n in RESULTS if (whole / n).read_bytes() != (pieced / n).read_bytes()]
    assert differing == []


def test_people_rank_between_two_calls(tmp_path, capsys):
    tmp_path = tmp_path / "a b"
    tmp_path.mkdir()
    config = miniature("people", tmp_path, annotation={"source": "page"})
    call(config)
    collected = tmp_path / "people" / "collect"
    out = " ".join(capsys.readouterr().out.split())
    assert f"waiting for rankings: rlhf annotate '{collected}', then the same command again" in out
    assert statuses(tmp_path / "people") == {"sft/main": "done", "collect": "waiting"}
    for split in ("", "eval_"):
        tasks = read_jsonl(collected / f"{split}tasks.jsonl", RankingTask)
        write_jsonl(collected / f"{split}rankings.jsonl", (ranked(task) for task in tasks))
    call(config, redo="collect", only="collect")
    out = " ".join(capsys.readouterr().out.split())
    assert "then the same command again, without --redo, which would begin anew" in out
    shutil.rmtree(collected)
    (tmp_path / "people/aside/collect").rename(collected)
    call(config)
    assert set(statuses(tmp_path / "people").values()) == {"done"}
    report = json.loads((tmp_path / "people/report/report.json").read_text("utf-8"))
    assert report["rm"]["pairs"] == 8 * 6


def ranked(task: RankingTask) -> RankingRecord:
    """The first response best, the last worst, every step of grade 2."""
    places = range(1, len(task.responses) + 1)
    return RankingRecord(
        id=task.id,
        prompt=task.prompt,
        responses=task.responses,
        ranks=tuple(places),
        grades=(2,) * (len(places) - 1),
        annotator="ann",
    )


def test_given_rankings_are_split_into_training_and_held_out(finished, copy_of):
    config, run_dir = copy_of()
    given = finished.parent / "mini" / "collect" / "rankings.jsonl"
    call(
        config,
        "annotation.source=file",
        f"data.rankings={given}",
        "data.held_out=0.25",
        only="collect",
    )
    parts = [
        {record.id for record in read_jsonl(run_dir / "collect" / name, RankingRecord)}
        for name in ("rankings.jsonl", "eval_rankings.jsonl")
    ]
    assert [len(part) for part in parts] == [12, 4] and not parts[0] & parts[1]
    call(
        config,
        "annotation.source=file",
        f"data.rankings={given}",
        "data.held_out=0.5",
        only="collect",
    )
    held_out = read_jsonl(run_dir / "collect/eval_rankings.jsonl", RankingRecord)
    assert len(list(held_out)) == 8


def test_a_reward_model_can_rank(finished, copy_of):
    config, run_dir = copy_of()
    judge = finished.parent / "mini" / "rm"
    overrides = ("annotation.source=judge", f"annotation.judge={judge}")
    call(config, *overrides, only="collect")
    records = list(read_jsonl(run_dir / "collect/rankings.jsonl", RankingRecord))
    assert all(record.annotator == f"judge {judge}" and not record.grades for record in records)
    call(config, *overrides, only="rm")
    pairs = (run_dir / "rm/pairs.jsonl").read_text("utf-8").splitlines()
    assert pairs and not any("grade" in json.loads(row) for row in pairs)
    # In the place of people it grades, and is called simulated.
    call(config, *overrides, "annotation.grading={tie: 0.2}", only="collect")
    graded = list(read_jsonl(run_dir / "collect/rankings.jsonl", RankingRecord))
    assert all(record.simulated and record.annotator.startswith("simulated") for record in graded)
    assert any(record.grades for record in graded)
