"""The wheel, built from a copy of the checkout without a network, and what pip makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"
LOOK = """
import sys
from pathlib import Path
import rlhf, stages
from rlhf.config.load import load_config
from rlhf.config.paths import resource

assert Path(rlhf.__file__).is_relative_to(sys.prefix), rlhf.__file__
assert Path(stages.__file__).is_relative_to(sys.prefix), stages.__file__
configs = resource("configs")
assert configs.is_relative_to(sys.prefix), configs
for path in [*configs.glob("*.yaml"), *configs.glob("ablations/*.yaml")]:
    assert load_config(path) == load_config(path.relative_to(configs).with_suffix(""))
    assert load_config(path) == load_config(f"configs/{path.relative_to(configs)}")
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    # Only what git tracks or could: a stale build/ or egg-info would end up in the wheel.
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, check=True, capture_output=True).stdout.decode().split("\0"):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    for kind in ("wheel", "sdist"):
        command = [sys.executable, "-c", BUILD.format(kind, str(out))]
        subprocess.run(command, cwd=tree, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def environment(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment that pip has installed the wheel into.

    What the package requires is lent from this environment, by a path at the end: no network is
    asked, and an installation of this package there is not seen.
    """
    # Not imported: setuptools could not be afterwards, in any test of this process.
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("no pip")
    (wheel,) = archives.glob("*.whl")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", "-q", str(wheel)], env=clean(), check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder


def clean() -> dict[str, str]:
    """Without PYTHONPATH, by which this checkout would be found."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture
def call(environment: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a program of that environment in an empty folder; what it printed."""

    def run(program: str, *arguments: str) -> str:
        command = [str(environment / "bin" / program), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_every_file_of_the_packages(archives: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    there = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    wanted = {
        str(path.relative_to(ROOT))
        for top in ("rlhf", "stages")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    } | {
        f"rlhf/{path.relative_to(ROOT)}"
        for top in ("configs", "data_schemas")
        for path in (ROOT / top).rglob("*.*")
    }
    assert wanted - there == set()
    tops = {name.split("/")[0].split("-")[0] for name in there}
    assert tops == {"rlhf", "stages", "baichuan_rlhf"}


def test_an_installed_rlhf_needs_no_checkout(call: Callable[..., str], tmp_path: Path) -> None:
    prompt = '{"id": "p", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}\n'
    (tmp_path / "prompts.jsonl").write_text(prompt, encoding="utf-8")
    call("python", "-c", LOOK)
    assert "annotate" in call("rlhf", "--help")
    call("rlhf", "data", "taxonomy", "coverage", "prompts.jsonl", "--out", "coverage")
    assert (tmp_path / "coverage").is_dir()
    rehearsed = call("rlhf", "run", "baichuan2_7b", "--rehearse", "--dry-run")
    assert "stages of runs/baichuan2_7b-rehearsal" in rehearsed


def test_the_wheel_asks_for_what_the_project_does(archives: Path) -> None:
    """pip installs these; that they can be had together is what constraints.txt was made by."""
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        described = message_from_bytes(archive.read(name))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [Requirement(line) for line in described.get_all("Requires-Dist") or []]
    always = {str(each) for each in asked if each.marker is None}
    assert always == {str(Requirement(line)) for line in project["dependencies"]}
    assert described.get_all("Provides-Extra") == list(project["optional-dependencies"])
    assert SpecifierSet(described["Requires-Python"]) == SpecifierSet(project["requires-python"])


def test_the_sdist_can_be_worked_in(archives: Path) -> None:
    (sdist,) = archives.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = "run_all.sh constraints.txt Makefile scripts/prepare_env.sh tests/conftest.py"
    assert {*wanted.split(), "docs/data.md", "benchmarks/cpu_rm.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".")]
