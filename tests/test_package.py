"""Holds what an installation relies on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_every_folder_with_code_is_a_package():
    """setup.py finds packages by their __init__.py; others would be missing from the wheel."""
    folders = {path.parent for top in ("rlhf", "stages") for path in (ROOT / top).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_dependency_has_one_exact_pin():
    pins = [line for line in PINS if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = [pin.split("==")[0] for pin in pins]
    assert len(names) == len(set(names))
    extras = [name for extra in PROJECT["optional-dependencies"].values() for name in extra]
    wanted = {re.split(r"[<>=]", name)[0].lower() for name in [*PROJECT["dependencies"], *extras]}
    assert wanted <= set(names)


def test_one_torch_pin_serves_cpu_and_cuda():
    assert "torch==2.13.0" in PINS


def test_no_registry_is_named():
    files = ("pyproject.toml", "constraints.txt", "setup.py", "run_all.sh", "Makefile")
    for file in [*(ROOT / name for name in files), *(ROOT / "scripts").glob("*.*")]:
        assert not re.search(r"https?://|index-url", file.read_text(encoding="utf-8")), file


def test_the_command_is_what_python_m_rlhf_runs():
    """Another entry point would import for a while before Ctrl-C has its answer."""
    assert PROJECT["scripts"] == {"rlhf": "rlhf.__main__:main"}
