"""What every theory calculator returns: a number, what it is made of, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = ["Assumption", "BoundReport"]


class Assumption(NamedTuple):
    """A condition of a theorem, and how it came out for the numbers at hand.

    Attributes
    ----------
    name : str
        What is assumed, in a few words.
    holds : bool
        Whether it holds.
    detail : str
        The numbers that decided it.
    """

    name: str
    holds: bool
    detail: str = ""


@dataclass(frozen=True)
class BoundReport:
    """A number that a theorem yields: a bound on an error, a required width, a number of steps.

    Printing a report gives the value, then a line for each term and each assumption, then the source.

    Attributes
    ----------
    name : str
        What the number is.
    value : float or int
        The number. Infinity is allowed (a bound that is nowhere finite), NaN is not.
    terms : mapping of str to float
        The quantities from which it was computed, by name, in the order in which they are printed.
    assumptions : tuple of Assumption
        The conditions that were checked. What makes no sense at all is refused instead.
    source : str
        The theorem.
    kind : {"upper", "lower"}
        Whether the number bounds something from above or from below.
    trivial : float or None
        The value from which on the bound says nothing, such as 1 for a probability bounded from above
        and 0 for one bounded from below. None if every value says something, as a number of steps does.

    Raises
    ------
    ValueError
        If the value or a term is NaN, or `kind` is neither of the two.

    Examples
    --------
    >>> report = BoundReport("Test error", 1.7, terms={"margin": 1.2, "confidence": 0.5},
    ...     assumptions=(Assumption("unit norm", True, "norms 1 to 1"),), source="Theorem 1", trivial=1.0)
    >>> report.vacuous, report.holds
    (True, True)
    >>> print(report)
    Test error: at most 1.7 (vacuous: from 1 on it says nothing)
      margin: 1.2
      confidence: 0.5
      unit norm: holds (norms 1 to 1)
      Theorem 1
    """

    name: str
    value: float
    terms: Mapping[str, float] = field(default_factory=dict)
    assumptions: tuple[Assumption, ...] = ()
    source: str = ""
    kind: Literal["upper", "lower"] = "upper"
    trivial: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a number, and keep copies that the caller cannot change."""
        if self.kind not in ("upper", "lower"):
            raise ValueError(f"kind must be 'upper' or 'lower', got {self.kind!r}")
        for name, number in {"value": self.value, **self.terms}.items():
            if math.isnan(number):
                raise ValueError(f"{name} of {self.name!r} is NaN")
        object.__setattr__(self, "terms", dict(self.terms))
        object.__setattr__(self, "assumptions", tuple(self.assumptions))

    @property
    def holds(self) -> bool:
        """Whether every assumption that was checked holds."""
        return all(assumption.holds for assumption in self.assumptions)

    @property
    def vacuous(self) -> bool:
        """Whether the bound says nothing: an upper bound at or above the trivial value, say."""
        if self.trivial is None:
            return False
        return self.value >= self.trivial if self.kind == "upper" else self.value <= self.trivial

    def __str__(self) -> str:
        """Give the value, a line for each term and assumption, and the source."""
        side = "at most" if self.kind == "upper" else "at least"
        where = "on" if self.kind == "upper" else "down"
        says = f" (vacuous: from {self.trivial:.3g} {where} it says nothing)" if self.vacuous else ""
        lines = [f"{self.name}: {side} {self.value:.3g}{says}"]
        lines += [f"  {name}: {number:.3g}" for name, number in self.terms.items()]
        for name, holds, detail in self.assumptions:
            lines.append(f"  {name}: {'holds' if holds else 'VIOLATED'}{f' ({detail})' if detail else ''}")
        return "\n".join([*lines, f"  {self.source}"] if self.source else lines)
