"""What a figure is given, and how it repeats what it measures."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from bench.line import Line
from bench.scale import Scale
from bench.surroundings import Surroundings

_T = TypeVar("_T")


@dataclass(frozen=True)
class Bench:
    """The surroundings and the scale of a run."""

    surroundings: Surroundings
    scale: Scale
    tell: Callable[[str], None]
    """Says what is being done."""

    async def rounds(self, measures: Mapping[str, Callable[[], Awaitable[_T]]]) -> Mapping[str, list[_T]]:
        """Take all measures one after the other, once a round: what disturbs the machine disturbs all of them."""
        taken: dict[str, list[_T]] = {name: [] for name in measures}
        for number in range(1, self.scale.rounds + 1):
            for name, measure in measures.items():
                self.tell(f"round {number} of {self.scale.rounds}: {name}")
                taken[name].append(await measure())
        return taken


Figure: TypeAlias = Callable[[Bench], Awaitable[list[Line]]]
