"""docs/results.md's section on SmolLM2, and its plots, from the committed JSON and nothing else.

    python benchmarks/smollm2/page.py benchmarks/results/smollm2_135m.json docs

Writes between the two markers in results.md (in front of MARKED_BEFORE, while it has none), and
smollm2_gains.png and smollm2_grades.png beside it. The ten answers side by side are the first ten
of the first seed's held-out prompts by id, at least one of them labelled harmless: the rule of
rlhf.evaluation.policy.samples, so that nobody picks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlhf.evaluation.drawing import BLUE, GREEN, MUTED, ORANGE, PURPLE, render
from rlhf.evaluation.margin_report import BAICHUAN2_ACCURACY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Json = dict[str, Any]
BEGIN, END = "<!-- smollm2: written by benchmarks/smollm2/page.py -->", "<!-- smollm2: end -->"
MARKED_BEFORE = "## True size, random weights"
LONGEST = 400  # characters of a prompt or an answer that are shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("docs", type=Path)
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text(encoding="utf-8"))
    painters = {
        "smollm2_gains": ("Gains over KL", partial(_gains, result)),
        "smollm2_grades": ("Reward model by grade", partial(_grades, result)),
    }
    for name, (title, painter) in painters.items():
        (arguments.docs / f"{name}.png").write_bytes(render(name, title, painter)[0])
    page = arguments.docs / "results.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(placed(text, section(result, arguments.result.as_posix())), encoding="utf-8")


def placed(page: str, part: str) -> str:
    """The page with the part between its markers, which it gets where it has none."""
    block = f"{BEGIN}\n{part.strip()}\n{END}"
    if BEGIN in page:
        before, _, rest = page.partition(BEGIN)
        return before + block + rest.partition(END)[2]
    before, heading, rest = page.partition(MARKED_BEFORE)
    return f"{before}{block}\n\n{heading}{rest}"


def section(result: Json, source: str) -> str:
    """The whole section in Markdown."""
    return "\n".join(
        [
            *_opening(result, source),
            *_table(("", "mean over seeds, 95 % interval", "each seed"), _headline(result)),
            "",
            *_grades_table(result),
            *_policies(result),
            _parting(result),
            "",
            "![Gains of score and judge over KL](smollm2_gains.png)",
            "",
            "![Accuracy of the reward model by grade](smollm2_grades.png)",
            "",
            *_cost(result),
            *_side_by_side(result["seeds"][0]),
        ]
    )


def _opening(result: Json, source: str) -> Iterator[str]:
    judge, seeds = result["judge"], [str(seed["seed"]) for seed in result["seeds"]]
    yield "## A real small model, simulated annotators"
    yield ""
    yield (
        f"SmolLM2-135M-Instruct through all stages (`configs/smollm2_135m.yaml`), seeds "
        f"{', '.join(seeds)}; [how to repeat it](smollm2.md). All figures are from `{source}`."
    )
    yield (
        "Ranks, grades and verdicts are of a **simulated** annotator: a judge trained on people's "
        f"choices (hh-rlhf), which agrees with people on {_share(judge)} of {judge['pairs']} "
        "held-out pairs. The reward model never sees its weights. Leads are wins minus losses over "
        "held-out prompts; gains are in standard deviations of SFT's answers."
    )
    yield ""
    run = f"run.py WORK OUT --pieces DIR --sources SOURCES --seeds {' '.join(seeds)}"
    yield f"    python benchmarks/smollm2/{run}"
    yield f"    python benchmarks/smollm2/results.py WORK/runs {source}"
    yield f"    python benchmarks/smollm2/page.py {source} docs"
    yield ""


def _headline(result: Json) -> Iterator[tuple[str, str, str]]:
    names = {
        "sft/main/eval_loss_before": "held-out loss before SFT",
        "sft/main/eval_loss_after": "after SFT",
        "sft/small/eval_loss_before": "the pruned size before SFT",
        "sft/small/eval_loss_after": "after SFT",
        "rm/accuracy": "reward model, accuracy on held-out pairs",
        "rm/family-two": "the same from two responses a prompt, the family's own",
        "rm/off-family": "from as many of another family",
        "rm/family-two less off-family": "the difference",
        "PPO/win_minus_lose": "PPO's lead over SFT, by the judge",
        "PPO/proxy_win_minus_lose": "by the reward model it was trained on",
        "PPO/kl": "PPO's KL to SFT, nats a response",
        "PPO/judge_gain": "PPO's gain, by the judge",
        "PPO/length_before": "characters of SFT's answers",
        "PPO/length_after": "of PPO's",
        "PPO/matched": "PPO's lead on prompts whose two answers are about as long",
        "PPO/length_controlled": "PPO's share of wins, were the answers equally long",
        "PPO/kl_of_judge's best": "KL at which the judge likes PPO best",
        "DPO/win_minus_lose": "DPO's lead over SFT, by the judge",
        "DPO/kl": "DPO's KL to SFT",
        "DPO/judge_gain": "DPO's gain, by the judge",
        "seconds": "seconds of a seed's stages",
    }
    for name, words in names.items():
        if name in result["means"]:
            entry = result["means"][name]
            yield words, _interval(entry), ", ".join(_number(value) for value in entry["values"])


def _grades_table(result: Json) -> Iterator[str]:
    heads = ("grade", "pairs", "accuracy, mean and 95 % interval", "Baichuan 2's report")
    rows = []
    for grade, theirs in BAICHUAN2_ACCURACY.items():
        entry = result["means"].get(f"rm/grade {grade}")
        pairs = [
            row["pairs"]
            for seed in result["seeds"]
            for row in seed["rm"]["by_grade"]
            if row["grade"] == grade
        ]
        found = _interval(entry) if entry else "no pair in some seed"
        rows.append((str(grade), str(sum(pairs)), found, f"{theirs / 100:.3f}"))
    yield from _table(heads, rows)
    yield ""


def _policies(result: Json) -> Iterator[str]:
    yield "On the same axes, KL by n for the best of n answers of SFT by the reward model:"
    yield ""
    rows = []
    for line in result["seeds"][0]["best_of_n"]:
        name = f"best of {line['n']}"
        if f"{name}/judge_gain" in result["means"]:
            rows.append((name, *_axes(result, name)))
    rows += [(name, *_axes(result, name)) for name in ("DPO", "PPO")]
    yield from _table(("", "KL, nats", "the judge's gain"), rows)
    yield ""


def _parting(result: Json) -> str:
    """Whether the judge turns down while the score still rises, by each seed's bins of KL."""
    found = [seed["parting"] for seed in result["seeds"] if seed["parting"]]
    parted = 0
    for each in found:
        best = next(b for b in each["bins"] if b["kl"] == each["kl_of_best"])
        last = each["last"]
        parted += best["kl"] < last["kl"] and best["score_gain"] < last["score_gain"]
    told = (
        "reward model and judge rise together over all of PPO's iterations"
        if not parted
        else f"the judge turns down while the reward model's score still rises in {parted} of them"
    )
    return (
        f"Seeds: {len(found)}; {told} (eighths of them in order of KL; thin lines are seeds, thick "
        "ones their mean). KL during training is of training prompts, that of the points of "
        "held-out ones."
    )


def _axes(result: Json, name: str) -> tuple[str, str]:
    means = result["means"]
    return _number(means[f"{name}/kl"]["mean"]), _interval(means[f"{name}/judge_gain"])


def _cost(result: Json) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    stages: dict[str, list[Json]] = {}
    for seed in result["seeds"]:
        for stage in seed["stages"]:
            stages.setdefault(stage["stage"], []).append(stage)
    for name in ("judge", "healing"):
        for stage in result[name]["stages"]:
            stages[f"{name}: {stage['stage']}"] = [stage]
    rows = [
        (
            name,
            f"{sum(s['seconds'] for s in found) / len(found):.0f}",
            f"{max(s['peak_memory_gib'] for s in found):.1f}",
        )
        for name, found in stages.items()
    ]
    yield (
        f"On {', then '.join(map(_machine, result['hardware'] or ()))}; {versions}. Seeds ran "
        "beside one another, so that seconds are of shared devices."
    )
    yield ""
    yield from _table(("step", "seconds, mean", "GiB, most"), rows)
    yield ""


def _machine(found: Json) -> str:
    cores = f"{found['cpu_cores']} CPU cores"
    if "gpu" not in found:
        return cores
    return f"{found['gpus']} x {found['gpu']} ({found['gpu_gib']:.0f} GiB) and {cores}"


def _side_by_side(seed: Json) -> Iterator[str]:
    yield f"Ten held-out prompts of seed {seed['seed']}, the first by id, with both answers:"
    yield ""
    rows = [
        (_cell(row["prompt"]), _cell(row["before"]), _cell(row["after"]), row["verdict"])
        for row in seed["samples"]
    ]
    yield from _table(("prompt", "SFT", "PPO", "the judge: PPO"), rows)


def _gains(result: Json, axes: Axes) -> None:
    binned = [seed["parting"]["bins"] for seed in result["seeds"] if seed["parting"]]
    best = [seed["best_of_n"] for seed in result["seeds"]]
    lines = (
        ("PPO, its reward model", binned, "score_gain", ORANGE, "-"),
        ("PPO, judge", binned, "judge_gain", BLUE, "-"),
        ("best of n, judge", best, "quality_gain", GREEN, ":"),
    )
    for label, seeds, key, colour, style in lines:
        drawn = [[(each["kl"], each[key]) for each in seed] for seed in seeds]
        for points in drawn:
            axes.plot(*zip(*points, strict=True), style, color=colour, alpha=0.35, linewidth=0.8)
        mean = [tuple(map(fmean, zip(*at, strict=True))) for at in zip(*drawn, strict=True)]
        if mean:
            axes.plot(*zip(*mean, strict=True), style, color=colour, linewidth=1.8, label=label)
    for name, colour, mark in (("DPO", PURPLE, "s"), ("PPO", BLUE, "o")):
        entries = [e for seed in result["seeds"] for e in seed["policies"] if e["name"] == name]
        label, kls = f"{name}, held out, judge", [e["kl"] for e in entries]
        gains = [e["judge_gain"] for e in entries]
        axes.plot(kls, gains, mark, color=colour, markersize=4, label=label)
    axes.axhline(0.0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("KL to SFT (nats a response)")
    axes.set_ylabel("gain (deviations)")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)
    axes.legend(fontsize=6.5, loc="upper left", ncols=2)


def _grades(result: Json, axes: Axes) -> None:
    grades = [g for g in BAICHUAN2_ACCURACY if f"rm/grade {g}" in result["means"]]
    entries = [result["means"][f"rm/grade {grade}"] for grade in grades]
    means = [entry["mean"] for entry in entries]
    spread = [[e["mean"] - _or(e["low"], e["mean"]) for e in entries]]
    spread.append([_or(e["high"], e["mean"]) - e["mean"] for e in entries])
    axes.errorbar(grades, means, spread, fmt="o-", color=BLUE, markersize=4, label="SmolLM2, judge")
    theirs = [accuracy / 100 for accuracy in BAICHUAN2_ACCURACY.values()]
    axes.plot(
        [*BAICHUAN2_ACCURACY], theirs, "s--", color=MUTED, markersize=3, label="Baichuan 2, people"
    )
    axes.set_xlabel("grade")
    axes.set_ylabel("accuracy on held-out pairs")
    axes.set_xticks([*BAICHUAN2_ACCURACY])
    axes.legend(loc="lower right")


def _table(heads: Sequence[str], rows: Iterator[Any] | Sequence[Any]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _interval(entry: Json) -> str:
    mean = _number(entry["mean"])
    if entry["low"] is None:
        return f"{mean} (one seed)"
    return f"{mean} ({_number(entry['low'])} to {_number(entry['high'])})"


def _share(judge: Json) -> str:
    return f"{judge['accuracy']:.1%} ({judge['ci_low']:.1%} to {judge['ci_high']:.1%})"


def _number(value: float) -> str:
    """Three digits that count, and none of a sign for zero."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}".replace("-", "−")


def _cell(text: str) -> str:
    """Text in a table's cell: one line, no markup of ours, cut."""
    line = " ".join(text.split())
    cut = line if len(line) <= LONGEST else line[:LONGEST] + "…"
    for sign in "\\`*_<>|[]":
        cut = cut.replace(sign, f"\\{sign}")
    return cut


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


if __name__ == "__main__":
    main()
