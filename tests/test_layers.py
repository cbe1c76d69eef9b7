"""Holds the layers: a package imports only from layers below its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    {"ops", "config"},
    {"models", "runtime"},
    {"data", "generation"},
    {"training", "ppo", "evaluation", "planning", "demo"},
    {"stages"},
    {"apps"},
    {"cli"},
)
LEVEL = {package: level for level, layer in enumerate(LAYERS) for package in layer}
FILES = sorted([*(ROOT / "rlhf").rglob("*.py"), *(ROOT / "stages").rglob("*.py")])
OUTSIDE = {"rlhf/__init__.py", "rlhf/__main__.py"}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "matplotlib", "numpy"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str | None:
    """Of "rlhf.ops.kl" it is "ops", of "stages.rm" "stages"; of anybody else's None."""
    parts = module.split(".")
    if parts[0] == "stages":
        return "stages"
    return parts[1] if parts[0] == "rlhf" and len(parts) > 1 else None


def imports(source: str, module: str, is_package: bool = False) -> set[str]:
    """Full names of all that a module imports, inside functions too; for `from a import b`: a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def violations(module: str, imported: set[str]) -> list[str]:
    mine = package_of(module)
    assert mine in LEVEL, f"{module}: which layer is {mine} in? Add it to LAYERS"
    found = []
    for name in sorted(imported):
        other = package_of(name)
        if other is None or other not in LEVEL:
            continue
        stage_to_stage = mine == other == "stages" and name.split(".")[1] != module.split(".")[-1]
        if stage_to_stage or (other != mine and LEVEL[other] >= LEVEL[mine]):
            found.append(f"{module} must not import {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    if path.relative_to(ROOT).as_posix() in OUTSIDE:
        return
    module = module_name(path)
    found = imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert violations(module, found) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rlhf.ops.kl", "from rlhf.models.load import load"),
        ("rlhf.ops.kl", "import rlhf.config.schema"),
        ("rlhf.ops.kl", "def f():\n    from rlhf import cli"),
        ("rlhf.ops.kl", "from ..models import load"),
        ("rlhf.models.load", "from rlhf.runtime import files"),
        ("rlhf.ppo.update", "import rlhf.training.sft as sft"),
        ("rlhf.demo.world", "from stages import sft"),
        ("stages.ppo", "from stages.rm import run"),
        ("stages.ppo", "from . import rm"),
        ("stages.ppo", "import rlhf.apps.run"),
    ],
)
def test_the_rule_finds_what_it_forbids(module, source):
    assert violations(module, imports(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rlhf.ppo.update", "from rlhf.ppo import types\nfrom rlhf.ops.kl import estimate"),
        ("stages.ppo", "from rlhf.ppo import train\nimport torch\nfrom stages import ppo"),
        ("rlhf.apps.run", "from stages import sft"),
        ("rlhf.models.baichuan.modeling", "from .configuration import X\nfrom ..spec import Y"),
    ],
)
def test_the_rule_allows_what_lies_below(module, source):
    assert violations(module, imports(source, module)) == []


@pytest.mark.parametrize("module", ["rlhf", "rlhf.cli"])
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert HEAVY & set(run.stdout.split()) == set()
