from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from rlhf.cli import app
from tests.runtime.test_lineage import make


def test_the_tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()
    Path("base/config.json").write_text("{}")
    Path("data.jsonl").write_text("{}\n" * 1200)
    sft = make(Path("run"), "sft/main", model=Path("base"), train=Path("data.jsonl"))
    make(Path("run"), "ppo", actor=sft, reward_model=make(Path("run"), "rm", model=sft))
    Path("base").rename("elsewhere")
    lines = CliRunner().invoke(app, ["lineage", "run/ppo/actor"]).stdout.splitlines()
    assert lines[0].startswith("actor  run/ppo/actor  ")
    assert lines[1].startswith("ppo · config cccccccccccc · ")
    assert "├── actor  run/sft/main  " in lines[2]
    assert lines[4].rstrip().endswith("no longer there")
    assert "train  data.jsonl  " in lines[5] and lines[5].rstrip().endswith("1,200 records")
    assert lines[-1].startswith("    └── model  run/sft/main") and "as above" in lines[-1]


def test_of_a_whole_run(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    said = CliRunner().invoke(app, ["lineage", str(tmp_path)]).exception
    assert str(said) == f"{tmp_path}: a run; it has made no model yet"
    for name in ("sft/main", "rm"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    said = CliRunner().invoke(app, ["lineage", str(tmp_path)]).exception
    assert str(said) == f"{tmp_path}: a run; name a model in it, such as {tmp_path}/rm"
