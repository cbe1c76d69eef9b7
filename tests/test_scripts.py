"""The scripts find the checkout that they lie in, however they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("run_all.sh", "scripts/prepare_env.sh", "scripts/in_env.sh")
# Lacks nothing, needs no extras, and writes down what else it is asked for.
PYTHON = """#!/bin/sh
echo "$PYTHONPATH $*" >>"$0.log"
"""
# Is fit for use, and is interrupted as pip is.
PIP = """#!/bin/sh
[ "$1" = -c ] && exit
trap 'echo "ERROR: Operation cancelled by user" >&2; exit 1' INT
kill -INT 0
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(PYTHON, encoding="utf-8")
    path.chmod(0o755)
    return path


def asked(python: Path, script: Path | str, cwd: Path, **environment: str) -> list[str]:
    """What `python` is asked for by a script that is called with one argument."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [script, "dev"],
        cwd=cwd,
        env={**kept, "PYTHON": str(python), **environment},
        check=True,
        capture_output=True,
    )
    return python.with_name("python.log").read_text("utf-8").splitlines()


def expected(script: str) -> list[str]:
    lacks = f" {ROOT / 'scripts/missing_requirements.py'}"
    if script == "run_all.sh":
        return [f"{ROOT}{lacks}", f"{ROOT} -m rlhf.config.extras dev", f"{ROOT} -m rlhf run dev"]
    return [f"{lacks} dev"] if script.endswith("prepare_env.sh") else [f"{lacks} dev", " dev"]


def test_through_symbolic_links(python: Path, tmp_path: Path) -> None:
    """The one that people call; the others are called by their own path."""
    script = "run_all.sh"
    for folder in ("bin", "links"):
        (tmp_path / folder).mkdir()
    (tmp_path / "links/second").symlink_to(ROOT / script)
    (tmp_path / "bin/first").symlink_to("../links/second")
    assert asked(python, "bin/first", tmp_path) == expected(script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_with_a_path_for_cd(script: str, python: Path) -> None:
    """With CDPATH, cd looks elsewhere first, and prints where it went."""
    called = f"{ROOT.name}/{script}"
    assert asked(python, called, ROOT.parent, CDPATH=str(ROOT.parent)) == expected(script)


def test_ctrl_c_before_the_stages_is_one_line(python: Path) -> None:
    """A terminal sends it to the script and to what the script has started."""
    python.write_text(PYTHON.replace("echo", "kill -INT 0\necho"), encoding="utf-8")
    done = subprocess.run(
        [ROOT / "run_all.sh", "tiny"],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "rlhf: interrupted\n")


def test_ctrl_c_while_pip_installs_is_one_line_beside_its_own(tmp_path: Path) -> None:
    for name in ("run_all.sh", "scripts/prepare_env.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "setup.py", "constraints.txt"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP, encoding="utf-8")
    python.chmod(0o755)
    chosen = ("PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX")
    done = subprocess.run(
        [tmp_path / "run_all.sh", "tiny"],
        env={name: value for name, value in os.environ.items() if name not in chosen},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    begun = "Installing base into .venv (minutes, the first time)\n"
    assert (done.returncode, done.stdout) == (130, "")
    own = "ERROR: Operation cancelled by user\n"
    assert done.stderr == f"{begun}{own}rlhf: interrupted\n"
