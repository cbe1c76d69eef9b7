from __future__ import annotations

from typer.testing import CliRunner

from rlhf.apps import dry_run as planning
from rlhf.cli import app
from rlhf.config.load import load_config
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, SFTRecord
from rlhf.planning.memory import Part, Phase
from rlhf.planning.planner import Plan
from rlhf.planning.schedule import Duration
from rlhf.planning.stages import StagePlan


def test_before_anything_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "tiny", "--dry-run", "--set", "rounds=1"])
    assert done.exit_code == 0, done.output
    assert "\nrounds: 1\n" in done.stdout  # the config, defaults and changes in it
    assert "runs/tiny/demo/sft.jsonl" in done.stdout and "made by the run" in done.stdout
    assert "model, train, held_out made anew first" in " ".join(done.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_names_are_folded_on_a_narrow_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "tiny", "--dry-run"], env={"COLUMNS": "40"})
    assert done.exit_code == 0 and "evaluate" in done.stdout and "…" not in done.stdout


def test_what_stops_a_run_stops_a_dry_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (["baichuan2_7b"], "not there: weights/Baichuan2-7B-Base"),
        (["tiny", "--from", "rlhf"], "--from rlhf: no such stage"),
        (["ablations/rm"], "--dry-run is for one run"),
    ):
        done = CliRunner().invoke(app, ["run", *arguments, "--dry-run"])
        assert isinstance(done.exception, ValueError) and said in str(done.exception)


def test_memory(monkeypatch):
    config = load_config("baichuan2_7b")
    duration = Duration("step", 90.0, 20)
    most = Phase("training", (Part("model", "weights", 3 * 2**30),))

    def plan(config, gpus, gpu_memory):  # it may refuse a stage, which must not be one left out
        names = {"sft": "sft/main", "ppo": "ppo"}
        stages = [StagePlan(names[s], "", (most,), duration, s != "ppo") for s in config.stages]
        return Plan("", gpus, gpu_memory, tuple(stages))

    monkeypatch.setattr(planning, "plan", plan)
    columns = planning.memory_table(config, ["sft", "ppo"], 2).columns
    rows = list(zip(*(column.cells for column in columns), strict=True))
    assert rows[0] == ("sft/main", "3.0", "training", "yes", "0.5")
    assert rows[1][3] == "no: rlhf plan says what would help"
    assert planning.memory_table(config, ["sft"], 2).row_count == 1


def test_what_leaks_is_told(tmp_path, monkeypatch, checkpoint):
    """The data are read and split as by the run, and nothing is written."""
    base = checkpoint()
    monkeypatch.chdir(tmp_path)
    answer = Message(role="assistant", content="yes")
    records = [
        SFTRecord(id=f"{n}", messages=(Message(role="user", content=asked), answer), source="test")
        for n, asked in enumerate(f"{n} {n}a {n}b" for n in range(10))
    ]
    write_jsonl("sft.jsonl", records)
    write_jsonl("held_out.jsonl", records[:4])
    keys = {"models.main.path": base, "data.sft": "sft.jsonl", "stages": "[sft]"}
    keys |= {"data.prompts": "null", "output_dir": "runs"}
    words = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    command = ["run", "baichuan2_7b", "--dry-run", *words]
    leaking = CliRunner().invoke(app, [*command, "--set", "data.sft_eval=held_out.jsonl"])
    assert "4 of 4 held-out texts are near-duplicates" in str(leaking.exception)
    clean = CliRunner().invoke(app, command)
    assert clean.exit_code == 0, clean.output
    assert not (tmp_path / "runs").exists()
