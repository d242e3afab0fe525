"""A row of the table, and how a ratio is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

Timed = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """A measured quantity: the median of its samples stands for it.

    A row without samples could not be measured, and its note says why. The target is an upper bound, or
    with `least` a lower one.
    """

    name: str
    what: str
    unit: str
    samples: Sequence[float]
    target: float | None = None
    least: bool = False
    note: str = ""

    @property
    def value(self) -> float | None:
        """The median, None without samples."""
        return median(self.samples) if self.samples else None

    @property
    def verdict(self) -> str:
        """Whether the target is met, and the note."""
        if self.target is None or not self.samples:
            return self.note
        met = self.value >= self.target if self.least else self.value <= self.target
        said = f"target {'at least ' * self.least}{self.target:g}: {'met' if met else 'MISSED'}"
        return f"{said}; {self.note}" if self.note else said


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
    body = [(r.name, *_numbers(r), r.unit, r.verdict) for r in rows]
    wide = max(len(line[0]) for line in (head, *body))
    return "\n".join(
        f"{name:{wide}}  {value:>8} {low:>8} {high:>8}  {unit:7} {verdict}".rstrip()
        for name, value, low, high, unit, verdict in (head, *body)
    )


def _numbers(row: Row) -> tuple[str, ...]:
    if not row.samples:
        return ("-", "-", "-")
    return tuple(f"{number:.3g}" for number in (row.value, min(row.samples), max(row.samples)))
