"""How far a crowd's own labels agree with the authoritative annotator's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Agreement on the items that both sides labelled.

    share: items with the same label on both sides. cohen_kappa (Cohen 1960) corrects it for chance
    by each side's own use of the labels, krippendorff_alpha (Krippendorff 2004, nominal) by the use
    that both make of them. None: not defined, since nothing was compared or all labels are one.
    """

    compared: int
    share: float | None
    cohen_kappa: float | None
    krippendorff_alpha: float | None


def agreement(pairs: Sequence[tuple[str, str]]) -> Agreement:
    """Agreement of two sides, one pair of labels an item."""
    if not pairs:
        return Agreement(0, None, None, None)
    share = sum(crowd == auditor for crowd, auditor in pairs) / len(pairs)
    if len({label for pair in pairs for label in pair}) < 2:
        return Agreement(len(pairs), share, None, None)
    from nltk.metrics.agreement import AnnotationTask

    rows = [
        (side, item, label)
        for item, pair in enumerate(pairs)
        for side, label in zip(("crowd", "auditor"), pair, strict=True)
    ]
    task = AnnotationTask(rows)
    return Agreement(len(pairs), share, float(task.kappa()), float(task.alpha()))
