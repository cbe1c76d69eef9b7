"""The report of policies against one baseline, from their judged answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlhf.evaluation import page, policy
from rlhf.evaluation.cells import Table
from rlhf.evaluation.drawing import BLUE, INK, MUTED, ORANGE, Sketch, shortened
from rlhf.evaluation.folder import write_folder
from rlhf.evaluation.length_control import length_controlled
from rlhf.evaluation.policy import JudgeRow
from rlhf.ops.intervals import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE = ("step", "kl", "score", "score_gain", "judge_gain")
"""What the report keeps of PPO's metrics; the gains are in deviations of the first iteration's
answers, and a judge is not always there."""
LINE_POINTS = 8  # of a line through noisy dots
WON = {"win": 1.0, "tie": 0.5, "lose": 0.0}


@dataclass(frozen=True)
class Judged:
    """A policy's answers beside the baseline's.

    rows: the judge's verdicts. kl: [N] nats by which each answer is away from the baseline, the
    summed per-token k3. proxy: [N] each, scores of the reward model that PPO trained on, of the
    baseline's and of the policy's answers; None without one.
    """

    name: str
    rows: list[JudgeRow]
    kl: list[float]
    proxy: tuple[list[float], list[float]] | None


def write(
    folder: Path,
    name: str,
    policies: Sequence[Judged],
    curve: Sequence[Mapping[str, float]] = (),
    samples: int = 5,
) -> dict[str, Any]:
    """Makes `folder` afresh and returns the contents of its report.json.

    Args:
        name: of the baseline, for the page.
        policies: one at least; the first is the one whose answers are shown.
        curve: rows of PPO's metrics.jsonl, for the frontier.
        samples: answers to show side by side, chosen by policy.samples' rule.
    """
    report = {
        "baseline": name,
        "judge": policies[0].rows[0].judge,
        "simulated": policies[0].rows[0].simulated,
        "policies": [summarise(each) for each in policies],
        "curve": [{key: row[key] for key in CURVE if key in row} for row in curve],
    }
    plots = [sketch.drawn() for sketch in sketches(report)]
    shown = policy.samples(policies[0].rows, samples)
    html = page.render_policy(report, plots, shown, folder)
    write_folder(folder, html, report, plots, tables(report))
    return report


def summarise(judged: Judged) -> dict[str, Any]:
    """One policy's entry in report.json."""
    won = [WON[row.verdict] for row in judged.rows]
    longer = [float(len(row.after) - len(row.before)) for row in judged.rows]
    low, high = wilson(sum(won), len(won))
    summary = policy.summarise(judged.rows)
    return {
        **summary,
        "name": judged.name,
        "by_level": policy.by_level(judged.rows),
        "win_rate": {"rate": fmean(won), "low": low, "high": high},
        "length_controlled": asdict(length_controlled(won, longer)),
        "kl": fmean(judged.kl),
        "proxy": _proxy(judged.rows, *judged.proxy) if judged.proxy else None,
    }


def _proxy(
    rows: Sequence[JudgeRow], before: Sequence[float], after: Sequence[float]
) -> dict[str, Any]:
    verdicts: list[policy.Verdict] = [
        "tie" if row.before == row.after else policy.verdict(old, new)
        for row, old, new in zip(rows, before, after, strict=True)
    ]
    return {"before": fmean(before), "after": fmean(after), **policy.count(verdicts)}


def tables(report: Mapping[str, Any]) -> dict[str, Table]:
    """policies.csv, and groups.csv with every policy's verdicts by kind of prompt."""
    counts = ("prompts", "win", "tie", "lose", "win_minus_lose", "ci_low", "ci_high")
    policies, groups = [], []
    for entry in report["policies"]:
        rate, controlled = entry["win_rate"], entry["length_controlled"]
        policies.append(
            {
                "policy": entry["name"],
                **{key: entry[key] for key in counts},
                **{f"win_rate_{key}": value for key, value in rate.items()},
                **{f"length_controlled_{key}": value for key, value in controlled.items()},
                "kl": entry["kl"],
                "proxy_score": entry["proxy"]["after"] if entry["proxy"] else None,
                "characters_before": entry["length"]["before"],
                "characters_after": entry["length"]["after"],
            }
        )
        kinds = [("label", row) for row in entry["by_label"]]
        kinds += [("language", row) for row in entry["by_language"]]
        kinds += [(f"level {row['level']}", row) for row in entry["by_level"]]
        groups += [
            {
                "policy": entry["name"],
                "group": kind,
                "name": row["name"],
                **{key: row[key] for key in counts},
            }
            for kind, row in kinds
        ]
    return {"policies": policies, "groups": groups}


def lines(report: Mapping[str, Any]) -> list[list[str]]:
    """For the eye, a line a policy: its name, lead, win rate, win rate at equal length, KL."""
    found = []
    for entry in report["policies"]:
        low, high = page.signed(entry["ci_low"]), page.signed(entry["ci_high"])
        rates = [
            f"{page.percent(rate['rate'])} ({page.percent(rate['low'], 0)} to "
            f"{page.percent(rate['high'], 0)})"
            for rate in (entry["win_rate"], entry["length_controlled"])
        ]
        lead = f"{page.signed(entry['win_minus_lose'])} ({low} to {high})"
        found.append([entry["name"], lead, *rates, page.number(entry["kl"])])
    return found


def sketches(report: Mapping[str, Any]) -> Iterator[Sketch]:
    """What the report draws: the frontier where there is a proxy, and the judge over the KL."""
    if all(entry["proxy"] for entry in report["policies"]):
        note = "Small: PPO's iterations, on training prompts. Large: policies, on held-out ones."
        title = "Reward model score over KL"
        yield Sketch("frontier", "policy", title, note, partial(_frontier, report))
    if _over_kl(report, "judge_gain"):
        note = (
            "PPO's iterations: gains over the first one, in standard deviations of its answers. "
            "The score going on without the judge is over-optimisation."
        )
        title = "Gains of score and judge over KL"
        yield Sketch("gains", "policy", title, note, partial(_gains, report))
    note = (
        "Wins less losses against the baseline with 95 % intervals, by the judge and by the reward "
        "model that was trained on. The second rising where the first falls is over-optimisation."
    )
    painter = partial(_overoptimisation, report)
    yield Sketch("overoptimisation", "policy", "Judge and proxy over KL", note, painter)


def _over_kl(report: Mapping[str, Any], key: str) -> list[tuple[float, float]]:
    """KL and a metric of the iterations that have both."""
    return [(row["kl"], row[key]) for row in report["curve"] if "kl" in row and key in row]


def _dots(points: Sequence[tuple[float, float]], colour: str, alpha: float, axes: Axes) -> None:
    kls, values = [kl for kl, _ in points], [value for _, value in points]
    axes.plot(kls, values, ".", color=colour, markersize=4, alpha=alpha)


def _frontier(report: Mapping[str, Any], axes: Axes) -> None:
    _dots(_over_kl(report, "score"), MUTED, 0.5, axes)
    start = report["policies"][0]["proxy"]["before"]
    points = [("baseline", 0.0, start)]
    points += [(e["name"], e["kl"], e["proxy"]["after"]) for e in report["policies"]]
    for name, kl, score in points:
        axes.plot(kl, score, "o", color=BLUE, markersize=5)
        axes.annotate(
            shortened(name), (kl, score), (4, 4), textcoords="offset points", color=INK, fontsize=8
        )
    axes.set_xlabel("KL to the baseline (nats a response)")
    axes.margins(x=0.15, y=0.15)


def _gains(report: Mapping[str, Any], axes: Axes) -> None:
    """Dots an iteration, and lines through means of neighbours in KL."""
    for key, name, colour in (("judge_gain", "judge", BLUE), ("score_gain", "proxy", ORANGE)):
        points = sorted(_over_kl(report, key))
        _dots(points, colour, 0.4, axes)
        size = max(1, len(points) // LINE_POINTS)
        groups = [points[start : start + size] for start in range(0, len(points), size)]
        means = [[fmean(values) for values in zip(*group, strict=True)] for group in groups]
        axes.plot([kl for kl, _ in means], [mean for _, mean in means], color=colour, label=name)
    axes.set_xlabel("KL to the baseline (nats a response)")
    axes.legend()


def _overoptimisation(report: Mapping[str, Any], axes: Axes) -> None:
    ordered = sorted(report["policies"], key=lambda entry: float(entry["kl"]))
    series = {"judge": (BLUE, ordered)}
    if all(entry["proxy"] for entry in ordered):
        series["proxy"] = (ORANGE, [{**e["proxy"], "kl": e["kl"]} for e in ordered])
    axes.axhline(0.0, color=MUTED, linewidth=0.8)
    for name, (colour, entries) in series.items():
        kl = [0.0, *(entry["kl"] for entry in entries)]
        lead = [0.0, *(entry["win_minus_lose"] for entry in entries)]
        low = [0.0, *(entry["win_minus_lose"] - entry["ci_low"] for entry in entries)]
        high = [0.0, *(entry["ci_high"] - entry["win_minus_lose"] for entry in entries)]
        axes.errorbar(kl, lead, (low, high), fmt="o-", color=colour, markersize=4, label=name)
    axes.set_xlabel("KL to the baseline (nats a response)")
    axes.legend()
