"""What the report draws: one small plot a question, from the numbers of the run's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import log
from typing import TYPE_CHECKING, Any

from rlhf.evaluation import rm_plots
from rlhf.evaluation.drawing import BLUE, GRID, INK, MUTED, ORANGE, PAPER, SERIES, Plot, Sketch
from rlhf.evaluation.run_files import Metrics, RunFiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHING = 20  # the bold line is a running mean over this fraction of the curve: 1 / SMOOTHING


def draw(files: RunFiles, report: dict[str, Any]) -> Iterator[Plot]:
    """Every plot that the run has numbers for."""
    return (sketch.drawn() for sketch in _sketches(files, report))


def sft_loss(models: dict[str, Metrics]) -> Sketch:
    """Training and held-out loss of each model."""
    note = "Thin: training loss, running mean in bold. Dots: held-out loss."
    return Sketch("sft_loss", "sft", "Loss per token (nats)", note, partial(_losses, models))


def _sketches(files: RunFiles, report: dict[str, Any]) -> Iterator[Sketch]:
    sft = {name: entry.metrics for name, entry in files.sft.items() if entry.metrics}
    if sft:
        yield sft_loss(sft)
    if files.dpo_metrics:
        note = "Thin: training loss, running mean in bold. Dots: held-out loss. Dashed: ln 2."
        painter = partial(_ranking_losses, {"dpo": files.dpo_metrics})
        yield Sketch("dpo_loss", "dpo", "DPO loss", note, painter)
    if rm := report["rm"]:
        yield from rm_plots.sketches(rm, files.last.pairs)
    rounds = {f"round {entry.number}": entry.rm_metrics for entry in files.rounds}
    if any(_series(rows, "loss")[0] for rows in rounds.values()):
        note = (
            "Thin: training loss, running mean in bold. Dots: held-out loss. Dashed: chance, ln 2."
        )
        yield Sketch("rm_loss", "rm", "Ranking loss", note, partial(_ranking_losses, rounds))
    rounds = {f"round {entry.number}": entry.ppo_metrics for entry in files.rounds}
    for key, title, note in PPO_CURVES:
        if any(_series(rows, key)[0] for rows in rounds.values()):
            painter = partial(_curves, rounds, key, "PPO iteration")
            yield Sketch(f"ppo_{key}", "ppo", title, note, painter)
    if report["ppo"] and report["ppo"]["judge"]:
        note = "Share of held-out prompts on which the answer after PPO is better, equal, worse."
        simulated = report["ppo"]["judge"]["simulated"]
        painter = partial(_verdicts, report)
        yield Sketch("judge", "ppo", VERDICTS_BY[simulated], note, painter)


VERDICTS_BY = {False: "Verdicts on held-out prompts", True: "Verdicts of a simulated judge"}
PPO_CURVES = (
    ("score", "Reward model score", "Mean over the iteration's responses, before normalisation."),
    ("kl", "KL to the reference (nats a response)", "Summed k3 per response, mean over responses."),
    ("response_length", "Response length (tokens)", "Mean over the iteration's responses."),
    ("entropy", "Policy entropy (nats a token)", "A fall to zero would mean a collapsed policy."),
    ("eos_rate", "Finished responses", "Share of responses that end by themselves."),
)


def _series(rows: Metrics, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that have the key."""
    found = [(row["step"], row[key]) for row in rows if key in row]
    return [step for step, _ in found], [value for _, value in found]


def _running_mean(values: Sequence[float]) -> list[float]:
    width = max(1, len(values) // SMOOTHING)
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _losses(groups: dict[str, Metrics], axes: Axes) -> None:
    _curves(groups, "loss", "optimiser step", axes)
    learnt = axes.lines[-1]
    for (_, rows), colour in zip(groups.items(), SERIES * len(groups), strict=False):
        steps, values = _series(rows, "eval_loss")
        axes.plot(steps, values, "o-", color=colour, markersize=4, linewidth=0.8)
    if len(groups) == 1:  # of several, the legend names the models
        axes.legend([learnt, axes.lines[-1]], ["training", "held out"])


def _ranking_losses(rounds: dict[str, Metrics], axes: Axes) -> None:
    axes.axhline(log(2), color=MUTED, linewidth=1.2, linestyle="--")
    _losses(rounds, axes)


def _curves(groups: dict[str, Metrics], key: str, label: str, axes: Axes) -> None:
    for (name, rows), colour in zip(groups.items(), SERIES * len(groups), strict=False):
        steps, values = _series(rows, key)
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.4)
        axes.plot(steps, _running_mean(values), color=colour, label=name)
    axes.set_xlabel(label)
    if len(groups) > 1:
        axes.legend()


def _verdicts(report: dict[str, Any], axes: Axes) -> None:
    ppo = report["ppo"]
    bars = {
        "against SFT": ppo["judge"],
        "against SFT with as\nmuch extra compute": ppo["judge_extra_sft"],
        "against DPO": ppo["judge_dpo"],
    }
    bars = {name: judge for name, judge in bars.items() if judge}
    for position, judge in enumerate(bars.values()):
        start = 0.0
        for verdict, colour in (("win", BLUE), ("tie", GRID), ("lose", ORANGE)):
            share = 100 * judge[verdict] / judge["prompts"]
            axes.barh(position, share, 0.5, left=start, color=colour)
            if share > 6:
                text = INK if verdict == "tie" else PAPER
                axes.text(
                    start + share / 2,
                    position,
                    f"{verdict}\n{judge[verdict]}",
                    color=text,
                    ha="center",
                    va="center",
                    fontsize=8.5,
                )
            start += share
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlabel("prompts (%)")
    axes.grid(visible=False)
