"""A row of the table, and how a ratio is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

Timed = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """A measured quantity: the median of its samples stands for it."""

    name: str
    what: str
    unit: str
    samples: Sequence[float]
    target: float | None = None

    @property
    def value(self) -> float:
        """The median."""
        return median(self.samples)

    @property
    def verdict(self) -> str:
        """Whether the target, an upper bound, is met."""
        if self.target is None:
            return ""
        return f"target {self.target:g}: {'met' if self.value <= self.target else 'MISSED'}"


def ratios(baseline: Timed, candidate: Timed, pairs: int) -> list[float]:
    """Time two functions in turns, and return the ratio of each pair, candidate over baseline.

    Each function returns the seconds that it took, without its own preparations. Every other pair runs
    in the opposite order, and one pair before the first, to warm up, does not count.
    """
    found = []
    for i in range(pairs + 1):
        if i % 2:
            low, high = baseline(), candidate()
        else:
            high, low = candidate(), baseline()
        found.append(high / low)
    return found[1:]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text: median, smallest and largest sample."""
    head = ("", "median", "min", "max", "", "")
    body = [
        (r.name, f"{r.value:.3g}", f"{min(r.samples):.3g}", f"{max(r.samples):.3g}", r.unit, r.verdict)
        for r in rows
    ]
    wide = max(len(line[0]) for line in (head, *body))
    return "\n".join(
        f"{name:{wide}}  {value:>8} {low:>8} {high:>8}  {unit:7} {verdict}".rstrip()
        for name, value, low, high, unit, verdict in (head, *body)
    )
