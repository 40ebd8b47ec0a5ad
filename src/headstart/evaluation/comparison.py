"""Two models' answers to the same pictures → what changed, overall and per class, each with a paired test.

Only the pictures that one model gets right and the other wrong tell the two apart (McNemar 1947), so a difference can
be told from chance that two separate intervals would hide. It sees which answers are right; models do not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headstart.records import Finding, Integers, found

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """How the answers to some pictures changed.

    Attributes:
        name: Their class; "" for all pictures.
        pictures: How many they are.
        before: Share that the first model gets right.
        after: Share that the second one gets right.
        lost: Right before, wrong now.
        won: Wrong before, right now.
        p_value: Of McNemar's exact two-sided test.
        adjusted: The same, corrected for looking at all classes (Holm 1979); for all pictures `p_value`.
    """

    name: str
    pictures: int
    before: float
    after: float
    lost: int
    won: int
    p_value: float
    adjusted: float


def compare(
    before: NDArray[np.bool_], after: NDArray[np.bool_], labels: Sequence[str], groups: Integers | None = None
) -> tuple[Change, ...]:
    """Return the change of all pictures, then of each class: most significant first, of equals the worst fall.

    Args:
        before: (N,) whether the first model is right.
        after: (N,) whether the second one is.
        labels: (N,) classes.
        groups: (N,) rows of one group are not independent, so each group has one vote in the test: whether it won or
            lost more pictures. None: rows one by one.

    >>> import numpy as np
    >>> before, after = np.array([True, True, True, False]), np.array([False, False, True, True])
    >>> [(change.name, change.lost, change.won, change.p_value) for change in compare(before, after, ["a"] * 4)]
    [('', 2, 1, 1.0), ('a', 2, 1, 1.0)]
    """
    members = np.arange(len(labels)) if groups is None else groups
    every = _change("", before, after, members)
    own: dict[str, list[int]] = {name: [] for name in sorted(set(labels))}
    for row, name in enumerate(labels):
        own[name].append(row)
    classes = [_change(name, before[rows], after[rows], members[rows]) for name, rows in own.items()]
    classes = [
        replace(change, adjusted=adjusted)
        for change, adjusted in zip(classes, holm([change.p_value for change in classes]), strict=True)
    ]
    return every, *sorted(classes, key=lambda change: (change.p_value, change.after - change.before))


def findings(changes: Sequence[Change]) -> list[Finding]:
    """Return the overall change as a note, and a warning with the classes that became worse beyond chance.

    Args:
        changes: From `compare`.
    """
    if not changes:
        return []
    every, *classes = changes
    text = (
        f"before {every.before:.3f}, after {every.after:.3f} on the same {every.pictures:,} pictures, "
        f"p = {every.p_value:.2g}"
    )
    return [
        *found("change", "note", text, ["all pictures"]),
        *found(
            "worse-classes",
            "warning",
            "{n} [class|classes] became worse, more than chance explains",
            [change.name for change in classes if change.adjusted < SIGNIFICANT and change.after < change.before],
            "Look at the pictures that were right before and are wrong now.",
        ),
    ]


def _change(name: str, before: NDArray[np.bool_], after: NDArray[np.bool_], members: Integers) -> Change:
    step = after.astype(np.int64) - before
    _, group = np.unique(members, return_inverse=True)
    votes = np.sign(np.bincount(group, step))
    p_value = _mcnemar(int((votes < 0).sum()), int((votes > 0).sum()))
    return Change(
        name=name,
        pictures=len(step),
        before=float(before.mean()),
        after=float(after.mean()),
        lost=int((step < 0).sum()),
        won=int((step > 0).sum()),
        p_value=p_value,
        adjusted=p_value,
    )


def _mcnemar(lost: int, won: int) -> float:
    """Return how probable so uneven a count is if losing and winning are equally likely."""
    # Twice the lower tail of the binomial distribution; it counts the middle twice where the two are equal.
    from scipy.special import bdtr  # whoever only predicts and evaluates need not have it

    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values, each corrected for all that are no smaller, and never below a smaller one's (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return [float(value) for value in adjusted]
