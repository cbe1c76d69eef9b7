"""`rlhf lineage`: the chain from base weights to a model, as a tree."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from rlhf.runtime.lineage import Origin, trace

RESULTS = ("ppo/actor", "rm", "dpo", "sft/main")
SHORT = 12
"""Characters of a hash that are shown: as many as tell two apart."""


def tree(model: Path) -> Tree:
    """What a model was made from, down to base weights and data; each stage is unfolded once.

    Raises ValueError when nothing is there, or a whole run.
    """
    if (model / "config.yaml").is_file():
        there = [model / name for name in RESULTS if (model / name / "config.json").is_file()]
        hint = f"name a model in it, such as {there[0]}" if there else "it has made no model yet"
        raise ValueError(f"{model}: a run; {hint}")
    origin = trace(model)
    root = Tree(_label(origin).append(_made(origin)))
    _grow(root, origin, set())
    return root


def _grow(tree: Tree, origin: Origin, shown: set[Path]) -> None:
    if origin.directory is not None:
        shown.add(origin.directory)
    for each in origin.inputs:
        label = _label(each)
        if each.directory in shown:
            tree.add(label.append("  as above", "dim"))
        else:
            _grow(tree.add(label.append(_made(each))), each, shown)


def _label(origin: Origin) -> Text:
    """What it is, where, its hash, and whether it still is what it was."""
    path, here = origin.path, Path.cwd()
    place = path.relative_to(here) if path.is_relative_to(here) else path
    text = Text.assemble((origin.name, "bold"), f"  {place}")
    if origin.hash:
        text.append(f"  {origin.hash[:SHORT]}", "cyan")
    if origin.records is not None:
        text.append(f"  {origin.records:,} records")
    if origin.state != "there":
        text.append("  no longer there" if origin.state == "gone" else "  changed since", "red")
    return text


def _made(origin: Origin) -> Text:
    """By which stage, from which config, when and with which version: a line of its own."""
    made = origin.manifest
    if made is None:
        weights = (origin.path / "config.json").is_file()
        return Text("\nbase weights" if weights else "", "dim")
    version, commit = made.versions.get("rlhf", ""), made.versions.get("commit", "")[:SHORT]
    facts = [made.stage, f"config {made.config_hash[:SHORT]}", made.finished or made.status]
    facts.append(f"rlhf {version} {commit}".strip())
    return Text(f"\n{' · '.join(facts)}", "dim")
