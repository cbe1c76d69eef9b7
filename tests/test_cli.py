"""What users meet first: help at once, and one line for each of their mistakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rlhf import cli
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord, SFTRecord
from rlhf.runtime.files import write_text
from rlhf.runtime.run_dir import RunDir
from tests.stages.worlds import miniature

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "pydantic", "numpy", "yaml")


@pytest.fixture
def fails(monkeypatch, capsys):
    """The one line on stderr of a command that exits with 2."""

    def fails(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rlhf", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        error = capsys.readouterr().err
        assert exit_.value.code == 2
        assert error.startswith("rlhf: ") and error.count("\n") == 1 and error.endswith("\n")
        return error.removeprefix("rlhf: ").strip()

    return fails


def test_deepspeed_has_a_launcher_for_one_process_too(monkeypatch, tmp_path):
    started = []
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("rlhf.apps.launch.launch", lambda *asked: started.append(asked) or 7)
    words = ["run", str(miniature("alone", tmp_path)), "--set", "runtime.deepspeed=zero2"]
    monkeypatch.setattr(sys, "argv", ["rlhf", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 7 and started == [(1, words, "the same command")]


def test_what_is_foreseen_and_no_mistake_is_one_line_too(monkeypatch, capsys, tmp_path):
    from rlhf.ppo import monitors
    from rlhf.runtime.checkpoint import save

    def alarm(*_: object, **__: object) -> None:
        monitors.Monitor(monitors.MonitorSection()).allow_rollback("why", before=9)

    def full_disk(*_: object, **__: object) -> None:
        monkeypatch.setattr("rlhf.runtime.checkpoint._write", _no_space)
        save(tmp_path, 1, {})

    def by_a_library(words: str) -> Callable[..., None]:
        def broken(*_: object, **__: object) -> None:
            exec(compile(f"raise RuntimeError({words!r})", "torch/serialization.py", "exec"))

        return broken

    def torch_closes_it_too(*_: object, **__: object) -> None:
        try:
            by_a_library("basic_ios::clear: iostream error")()
        finally:
            by_a_library("[enforce fail at inline_container.cc:672] . unexpected pos 768 vs 662")()

    for broken, said in (
        (torch_closes_it_too, "the last whole checkp"),
        (alarm, "why (after 9 rollbacks"),
        (full_disk, "free some space"),
        (by_a_library("I/O error: No space left on device (os error 28)"), "no space left"),
        (by_a_library("PytorchStreamWriter failed writing file data/0"), "the last whole checkp"),
    ):
        monkeypatch.setattr("rlhf.apps.run.run", broken)
        monkeypatch.setattr(sys, "argv", ["rlhf", "ppo", "tiny"])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert exit_.value.code == 1
        error = capsys.readouterr().err
        assert error.startswith("rlhf: ") and said in error and error.count("\n") == 1


def test_a_full_disk_speaks_of_checkpoints_where_there_are_some(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("rlhf.runtime.files.sync", _no_space)
    monkeypatch.setattr("rlhf.data.formats.convert", lambda *_: write_text(tmp_path / "x", "x"))
    words = ["data", "convert", "--from", "alpaca", "--in", "a.json", "--out", "b"]
    monkeypatch.setattr(sys, "argv", ["rlhf", *words])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    line = "rlhf: no space left on the disk; free some, and the same command does it\n"
    assert capsys.readouterr().err == line


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def own_files(tmp_path):
    """A config that names files of the user's, and what they are to hold."""

    def write(demonstrations: int = 0, **changes: object) -> str:
        data = {"sft": str(tmp_path / "sft.jsonl"), "prompts": str(tmp_path / "prompts.jsonl")}
        values = {
            "name": "own",
            "output_dir": str(tmp_path / "runs"),
            "models": {
                "main": {
                    "path": str(tmp_path / "weights"),
                    "architecture": "baichuan2-7b",
                    "size": "7b",
                }
            },
            "data": data,
        }
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        question = (Message(role="user", content="How are you?"),)
        answer = (*question, Message(role="assistant", content="Well."))
        write_jsonl(
            data["sft"],
            (SFTRecord(id=f"s{n}", messages=answer, source="x") for n in range(demonstrations)),
        )
        write_jsonl(data["prompts"], [PromptRecord(id="p", messages=question)])
        return str(path)

    return write


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['rlhf', '--help']; from rlhf import cli\n"
        "try: cli.app()\n"
        "except SystemExit as done: assert done.code in (0, None), done.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("run", "sft", "collect", "rm", "ppo", "evaluate", "annotate", "data"):
        assert f" {command} " in done.stdout


def test_a_mistake_is_told_before_anything_heavy_loads():
    """In a process of its own; torch cannot be imported there."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "sys.argv = ['rlhf', 'run', 'tiny', '--set', 'ppo.kl.inital=1']\n"
        "from rlhf.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    line = "rlhf: --set: unknown key ppo.kl.inital; did you mean ppo.kl.initial?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_wrong_values(fails):
    assert "ppo.iterations" in fails("run", "tiny", "--set", "ppo.iterations=many")
    assert "whole number" in fails("run", "tiny", "--set", "ppo.iterations=1.5")
    assert "expected key=value" in fails("run", "tiny", "--set", "ppo.iterations")
    assert "not a multiple" in fails("run", "tiny", "--set", "ppo.minibatch=7")


def test_no_such_config(fails):
    assert "configs/tinny.yaml: no such config; did you mean tiny?" in fails(
        "run", "configs/tinny.yaml"
    )


def test_no_such_stage(fails):
    line = fails("run", "tiny", "--from", "pppo")
    assert line == "--from pppo: no such stage; choose one of sft collect dpo rm ppo evaluate"


def test_everything_that_is_not_there_in_one_line(fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = fails("run", "baichuan2_7b")
    for name in ("weights/Baichuan2-7B-Base", "weights/Baichuan2-13B-Chat", "data/prompts.jsonl"):
        assert name in line
    assert "--rehearse" in line and "run://" not in line and "sft/main" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_no_checkpoint(fails, own_files, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    line = fails("run", own_files(5))
    assert "weights" in line and "aichuan" in line
    assert not (tmp_path / "runs/own/sft").exists()


def test_an_empty_dataset(fails, tmp_path):
    (tmp_path / "none.jsonl").touch()
    config = miniature("empty", tmp_path)
    line = fails("run", str(config), "--set", f"data.sft={tmp_path}/none.jsonl")
    assert line == f"{tmp_path}/none.jsonl: no records in this file"


def test_a_damaged_line(fails, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n', encoding="utf-8")
    config = miniature("damaged", tmp_path)
    assert f"{tmp_path}/bad.jsonl:1: " in fails(
        "run", str(config), "--set", f"data.prompts={tmp_path}/bad.jsonl"
    )


def test_a_stage_before_its_input(fails, tmp_path):
    config = miniature("early", tmp_path)
    line = fails("ppo", str(config))
    assert line.startswith("ppo needs ") and line.endswith("run stage sft first: --from sft")


def test_a_stage_whose_data_the_config_does_not_name(fails, tmp_path):
    config = miniature("bare", tmp_path)
    line = fails("sft", str(config), "--set", "data.sft=null")
    assert line.endswith("which is not there; name its source in the config: data.sft")


def test_a_run_directory_in_use(fails, tmp_path):
    config = miniature("busy", tmp_path)
    with RunDir(tmp_path / "busy").lock():
        line = fails("run", str(config))
    assert "busy: in use by process" in line and "--set name=" in line


def test_a_path_that_is_something_else_or_not_for_the_user(fails, monkeypatch, tmp_path):
    (tmp_path / "file").touch()

    def closed(**_: object) -> None:
        (tmp_path / "file" / "below").read_text()

    monkeypatch.setattr(cli, "app", closed)
    assert fails("run").endswith("file/below: Not a directory; check the path and who may use it")


def test_a_path_that_is_too_long(fails):
    line = fails("data", "convert", "--from", "alpaca", "--in", "a" * 300, "--out", "x")
    assert line.endswith("aaa: File name too long; check the path and who may use it")


def test_an_output_folder_that_cannot_be_made(fails, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    line = fails("run", "tiny", "--set", f"output_dir={tmp_path / 'loop'}")
    assert line.startswith(f"{tmp_path / 'loop'}") and line.endswith("name another")


@pytest.mark.parametrize(
    "change",
    [
        *("seed=-1", "seed=4294967296", "sft.optimiser.beta1=1", "sft.tuning.targets=[]"),
        *("preset=[a]", "sft.batch_size=99999999999"),
    ],
)
def test_values_that_a_library_would_refuse_in_the_middle(fails, change):
    key = change.partition("=")[0].rpartition(".")[2]
    assert key in fails("plan", "tiny", "--set", change)


@pytest.mark.parametrize("command", ["ui", "annotate"])
def test_a_port_that_there_is_not(fails, command, tmp_path):
    assert "--port" in fails(command, str(tmp_path), "--port", "70000")


def test_faults_of_ours_are_not_taken_for_the_users(monkeypatch, capsys):
    def broken(**_: object) -> None:
        int("x")

    monkeypatch.setattr(cli, "app", broken)
    monkeypatch.setattr(sys, "argv", ["rlhf"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and "ValueError: invalid literal" in said
