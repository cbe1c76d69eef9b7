"""The wheel, built from a copy of the checkout without a network, and what it installs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"
LOOK = """
import sys
from pathlib import Path
import rlhf
from rlhf.cli import app
from rlhf.config.load import load_config
from rlhf.config.paths import resource

assert Path(rlhf.__file__).is_relative_to(sys.argv[1]), rlhf.__file__
configs = resource("configs")
assert configs.is_relative_to(sys.argv[1]), configs
for path in [*configs.glob("*.yaml"), *configs.glob("ablations/*.yaml")]:
    assert load_config(path) == load_config(path.relative_to(configs).with_suffix(""))
    assert load_config(path) == load_config(f"configs/{path.relative_to(configs)}")
app(["data", "taxonomy", "coverage", "prompts.jsonl", "--out", "coverage"])
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
def installed(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """site-packages with the wheel alone, which is what pip does with one of pure Python."""
    (wheel,) = archives.glob("*.whl")
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_every_file_of_the_packages(installed: Path) -> None:
    there = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
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


def test_an_installed_rlhf_needs_no_checkout(installed: Path, tmp_path: Path) -> None:
    prompt = '{"id": "p", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}\n'
    (tmp_path / "prompts.jsonl").write_text(prompt, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", LOOK, installed]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "rlhf = rlhf.cli:main" in entry.read_text(encoding="utf-8").splitlines()


def test_the_sdist_can_be_worked_in(archives: Path) -> None:
    (sdist,) = archives.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = "run_all.sh constraints.txt Makefile scripts/prepare_env.sh tests/conftest.py"
    assert {*wanted.split(), "docs/data.md", "benchmarks/cpu_rm.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".")]
