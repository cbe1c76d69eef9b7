"""Every command that a document shows is run, or else read by the parser that would run it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from deepspeed.launcher.runner import parse_args as parse_deepspeed
from torch.distributed.run import get_args_parser
from typer.main import get_command
from typer.testing import CliRunner

from rlhf.cli import app
from rlhf.config.load import load_config
from rlhf.runtime.run_dir import STAGES
from tests.doc_commands import ROOT, all_shown, furnish, shown

pytestmark = pytest.mark.slow  # by the run that they are tried on

# Run as they stand, in a folder where the files that they name are.
RUN = (
    "annotate runs/baichuan2_7b/collect --to-label-studio tasks.json",
    "chat MODEL",
    "chat runs/tiny/ppo/actor",
    "chat weights/Baichuan2-7B-Chat",
    "data convert --from alpaca --in belle.json",
    "data curate",
    "data dedup sft.jsonl more.jsonl",
    "data taxonomy",
    "data validate",
    "evaluate policy runs/tiny",
    "evaluate rm runs/tiny",
    "export runs/",
)
# Read by their parser, and their config resolved where they take one. They take a GPU, hours,
# people, a server, another's file or an optional package; the tests named run the same work small.
READ = {
    "annotate": "tests/apps/annotate",
    "chat": "tests/apps/chat",
    "collect": "tests/stages/test_collect.py",
    "data convert": "tests/data/formats",
    "data dedup": "tests/data/test_dedup_meaning.py",
    "doctor": "tests/apps/doctor",
    "dpo": "tests/stages/test_dpo.py",
    "evaluate": "tests/apps/test_evaluate_policy.py",
    "export": "tests/apps/test_export.py",
    "import-llama": "tests/models/test_llama.py",
    "init": "tests/cli/test_init.py",
    "lineage": "tests/cli/test_lineage.py",
    "plan": "tests/planning",
    "ppo": "tests/stages/test_ppo.py",
    "prune": "tests/apps/test_prune.py",
    "rm": "tests/stages/test_end_to_end.py",
    "run": "tests/test_configs.py",
    "serve": "tests/apps/serve",
    "sft": "tests/stages/test_end_to_end.py",
    "ui": "tests/apps/dashboard",
}
# Programs of others, which no test here can start.
ELSEWHERE = {
    "ssh": "asks another machine",
    "pip download": "fetches a model from a registry",
    "unzip": "unpacks that model",
    "vllm": "is installed by whoever wants it",
    ".venv/bin/pre-commit install": "changes the checkout's hooks",
}
PLACEHOLDERS = {
    "CONFIG": "configs/baichuan2_7b.yaml",
    "configs/NEW.yaml": "configs/tiny.yaml",
    "MODEL": "weights/Baichuan2-7B-Chat",
    "RUN": "runs/a",
    "N": "2",
    "HOST": "0",
}
LAUNCHERS = ("torchrun", "srun", "python", "accelerate", "deepspeed")
COMMANDS = all_shown()


@pytest.fixture(scope="module")
def furnished(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    shutil.copytree(finished.parent / "mini", folder / "run")
    furnish(folder, folder / "run")
    return folder


@pytest.fixture
def here(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with all that, for one command."""
    for entry in furnished.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.text)
def test_a_command_of_the_documents(command: Any, here: Path) -> None:
    for part in command.text.split(" && "):
        check(part, command.whole)


def check(command: str, whole: bool) -> None:
    if command.startswith(tuple(ELSEWHERE)):
        return
    # [--option a|b] says what may be left out, and what may be chosen from.
    plain = re.sub(r"\|[\w|-]+", "", command.replace("[--", "--"))
    plain = re.sub(r"(?<=\w)\](?= |$)", "", plain) if "[--" in command else plain
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(plain)]
    while "=" in words[0]:
        words.pop(0)
    if "rlhf" in words[:-1] and words[0] in LAUNCHERS:
        read_by_launcher(words[: words.index("rlhf") + 1])
        words = words[words.index("rlhf") :]
    match words:
        case ["rlhf" | ".venv/bin/rlhf", *arguments]:
            run_or_read(command.partition("rlhf ")[2], arguments, whole)
        case ["python", "-m", "rlhf"] | ["accelerate", "launch"] | ["torchrun"]:
            pass  # names of programs
        case ["./run_all.sh", *arguments]:
            read(["run", *arguments], whole)
        case ["make", target]:
            assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8")
        case ["pip", "install", wanted]:
            assert_extras(re.findall(r"\[(.+)\]", wanted))
        case ["pip", "wheel", *_] | [".ci/run"] | ["pip", "install"]:
            assert (ROOT / "tests/test_wheel.py").exists() and os.access(ROOT / ".ci/run", os.X_OK)
        case ["scripts/prepare_env.sh", *extras]:
            assert_extras(extras)
        case ["scripts/in_env.sh", "-m", "pytest" | "ruff", *arguments]:
            paths = [word for word in arguments if "/" in word]
            assert [path for path in paths if not (ROOT / path).exists()] == []
        case ["python", script, *arguments]:
            text = (ROOT / script).read_text("utf-8")
            assert [word for word in arguments if word[0] == "-" and word not in text] == []
        case _:
            raise AssertionError(f"{command}: no test knows what to do with it")


def read_by_launcher(words: list[str]) -> None:
    """By the launcher's own parser; the last word is the module that it starts."""
    match words:
        case ["srun", *others]:
            read_by_launcher(others)
        case ["torchrun", *options]:
            assert get_args_parser().parse_args(options).module
        case ["accelerate", "launch", *options]:
            given = launch_command_parser().parse_args(options)
            assert given.module and (ROOT / given.config_file).exists()
        case ["deepspeed", *options]:
            given = parse_deepspeed(options)
            assert given.module and given.no_local_rank, "rlhf has no option --local_rank"


def assert_extras(names: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(names) <= set(project["optional-dependencies"])


def run_or_read(shown: str, arguments: list[str], whole: bool) -> None:
    if not arguments:
        return
    if not (whole and shown.startswith(RUN)):
        read(arguments, whole)
        return
    text = None
    if "<" in arguments:
        at = arguments.index("<")
        text, arguments = Path(arguments[at + 1]).read_text("utf-8"), arguments[:at]
    result = CliRunner().invoke(app, arguments, input=text or "", catch_exceptions=False)
    assert result.exit_code == 0, result.output


def read(arguments: list[str], whole: bool) -> None:
    """Through the real parser, to just before the command's own code."""
    values: dict[str, Any] = {}
    names: list[str] = []
    root = get_command(app)
    for path, leaf in leaves(root, ()):
        leaf.callback = lambda _path=path, **given: (names.extend(_path), values.update(given))
    try:
        root.main(args=arguments, standalone_mode=False)
    except Exception as error:
        if whole or type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError"):
            raise
        return  # a sentence names a command, or a part of one
    assert any(" ".join(names).startswith(prefix) for prefix in READ) or not whole, names
    if "overrides" in values and ("config" in values or values["overrides"]):
        load_config(values.get("config") or values["target"], values["overrides"] or [])
    stages = [values.get(name) for name in ("start", "only", "redo")]
    assert {stage for stage in stages if isinstance(stage, str)} <= set(STAGES)


def leaves(command: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(path, command)]
    return [leaf for name, one in inner.items() for leaf in leaves(one, (*path, name))]


def test_what_is_only_read_is_run_small_somewhere() -> None:
    assert [place for place in READ.values() if not (ROOT / place).exists()] == []


def test_commands_are_found_wherever_they_stand() -> None:
    text = (
        "Say `rlhf\nrun x`.\n\n    rlhf chat M  # why\n    output\n```sh\nmake it \\\n  so\n```\n"
    )
    found = {(command.text, command.whole) for command in shown(text)}
    assert found == {("rlhf run x", False), ("rlhf chat M", True), ("make it so", True)}


def test_a_wrong_command_is_found_out(here: Path) -> None:
    for wrong in ("rlhf chat", "rlhf run tiny --wrong", "make coffee", "pip install 'x[wrong]'"):
        with pytest.raises(Exception):  # noqa: B017  the parser's own, or an assertion
            check(wrong, True)
    with pytest.raises(ValueError, match="unknown key"):
        check("rlhf ppo CONFIG --set ppo.klip=0.1", True)
