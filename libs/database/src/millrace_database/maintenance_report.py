"""What a maintenance of the database did."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from millrace_database.bloat import Sizes
from millrace_database.bloat_hints import Hint


@dataclass(slots=True)
class StepReport:
    """A step: its name, what it counted, how long it took, and why it did not come to its end, if it did not."""

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: Exception | None = None

    def count(self, **found: int) -> None:
        """Add to what was counted."""
        for name, number in found.items():
            self.counts[name] = self.counts.get(name, 0) + number


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What a maintenance did or, with `dry_run`, would do; `sizes` is None when they could not be measured."""

    dry_run: bool
    steps: Sequence[StepReport]
    sizes: Sizes | None
    hints: Sequence[Hint]
    seconds: float

    @property
    def failed(self) -> Sequence[StepReport]:
        """The steps that did not come to their end."""
        return [step for step in self.steps if step.error is not None]

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """What was counted, by step."""
        return {step.name: step.counts for step in self.steps}

    def failure(self) -> str | None:
        """Return in one sentence what failed; None: nothing did."""
        if not (failed := self.failed):
            return None
        names = ", ".join(step.name for step in failed)
        first = failed[0].error
        reason = str(first) or type(first).__name__
        return f"{len(failed)} of {len(self.steps)} steps failed ({names}); the first: {reason}"

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON has it; times are ISO 8601."""
        sizes = self.sizes
        return {
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "steps": [
                {
                    "name": step.name,
                    "counts": step.counts,
                    "seconds": round(step.seconds, 3),
                    "error": None if step.error is None else str(step.error) or type(step.error).__name__,
                }
                for step in self.steps
            ],
            "hints": [asdict(hint) for hint in self.hints],
            "tables": [] if sizes is None else [asdict(table) for table in sizes.tables],
            "indexes": [] if sizes is None else [asdict(index) for index in sizes.indexes],
        }
