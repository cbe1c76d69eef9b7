"""A run directory as a run leaves it on its way: nothing is trained for it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import yaml

from tests.evaluation.rows import make_rows

QUESTION = "How do I <b>begin</b>?"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def stage(kind: str, status: str = "done", minute: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "stage": kind,
        "status": status,
        "seconds": 61.0,
        "peak_memory_gib": 1.5,
        "started": f"2026-01-01T00:{minute:02d}:00+00:00",
        **fields,
    }


def ppo_rows(iterations: int) -> list[dict[str, Any]]:
    """KL passes its bound of 1 in the third and the fourth iteration, and in the last."""
    kl = [0.0, 0.5, 2.0, 3.0, 0.5, 0.5, 4.0]
    return [
        {"step": i, "score": float(i), "kl": kl[i], "explained_variance": -1.0 if i == 0 else 0.5}
        for i in range(iterations)
    ]


def make_run(root: Path, *, alive: bool = True, kl: float = 0.2) -> Path:
    """Two rounds: the first is done, PPO of the second is in its seventh iteration of ten."""
    root.mkdir(parents=True)
    config = {
        "name": root.name,
        "output_dir": "runs",
        "data": {"sft": f"runs/{root.name}/demo/sft.jsonl"},
        "ppo": {
            "iterations": 10,
            "critic_warmup": 1,
            "kl": {"initial": kl},
            "monitors": {"kl": {"high": 1.0, "action": "rollback"}, "entropy": None},
        },
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    stages = {
        "sft/main": stage("sft", minute=0),
        "rounds/1/rm": stage("rm", minute=1),
        "rounds/1/ppo": stage("ppo", minute=2),
        "rm": stage("rm", minute=3),
        "ppo": stage("ppo", "running", minute=4, seconds=0.0, peak_memory_gib=0.0),
    }
    (root / "manifest.json").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    write_lines(
        root / "sft/main/metrics.jsonl",
        [{"step": 0, "eval_loss": 4.0}]
        + [{"step": i, "loss": 4.0 / i, "learning_rate": 1e-3} for i in range(1, 5)]
        + [{"step": 4, "eval_loss": 1.0}],
    )
    write_lines(root / "rounds/1/rm/metrics.jsonl", [{"step": 1, "loss": 0.7}])
    write_lines(root / "rounds/1/ppo/metrics.jsonl", ppo_rows(3))
    write_lines(root / "rm/metrics.jsonl", [{"step": 1, "loss": 0.6}])
    rows = make_rows([2.0, 1.0, -1.0, 3.0], category=("a", "b", "c"), simulated=True)
    write_lines(root / "rm/pairs.jsonl", [row.model_dump(mode="json") for row in rows])
    write_lines(root / "ppo/metrics.jsonl", ppo_rows(7))
    with (root / "ppo/metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "sco')
    write_lines(
        root / "ppo/samples.jsonl",
        [
            {"step": i, "prompt": QUESTION, "response": f"answer {i}", "score": i, "ended": i != 6}
            for i in range(7)
        ],
    )
    write_lines(
        root / "ppo/judge.jsonl",
        [
            {"prompt": QUESTION, "before": "b", "after": "a", "verdict": verdict}
            for verdict in ("win", "win", "tie", "lose")
        ],
    )
    holder = os.getpid() if alive else 2**22 + 1  # no process has a number above 2**22
    (root / ".lock").write_text(f"process {holder} on {socket.gethostname()}")
    return root
