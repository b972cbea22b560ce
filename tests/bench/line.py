"""What the benchmark says: a line for each thing it measured."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A limit for the median of a line: of its ratio, or of its value."""

    limit: float
    at_least: bool
    of_ratio: bool

    def is_met(self, line: "Line") -> bool:
        measured = line.ratio if self.of_ratio else line.value
        assert measured is not None
        return measured >= self.limit if self.at_least else measured <= self.limit

    def text(self, unit: str) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"ratio {sign} {self.limit:g}" if self.of_ratio else f"{sign} {self.limit:,g} {unit}"


def ratio_at_least(limit: float) -> Goal:
    return Goal(limit, at_least=True, of_ratio=True)


def at_least(limit: float) -> Goal:
    return Goal(limit, at_least=True, of_ratio=False)


def at_most(limit: float) -> Goal:
    return Goal(limit, at_least=False, of_ratio=False)


@dataclass(frozen=True)
class Line:
    """One thing measured in each round, and what it is compared with, measured in the same rounds."""

    name: str
    unit: str
    values: Sequence[float]
    of: str = ""
    base: Sequence[float] = ()
    """The values of what `of` names, round by round."""
    goal: Goal | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def ratios(self) -> Sequence[float]:
        # Of a round by itself: what disturbed it has disturbed both. A base of 0 compares with nothing.
        pairs = zip(self.values, self.base, strict=True) if self.base else ()
        return [value / base for value, base in pairs if base]

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None: there is none."""
        return None if self.goal is None else self.goal.is_met(self)

    def as_json(self) -> Mapping[str, Any]:
        ratios = self.ratios
        return {
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "lowest": min(self.values),
            "highest": max(self.values),
            "of": self.of,
            "ratio": self.ratio,
            "lowest_ratio": min(ratios, default=None),
            "highest_ratio": max(ratios, default=None),
            "goal": self.goal.text(self.unit) if self.goal else None,
            "met": self.is_met,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share (0 to 1) of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
