"""What a clean-up of the storage did."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Amount:
    """So many of something, and how many bytes they have as far as that is known."""

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.count + other.count, self.bytes + other.bytes)


NOTHING = Amount()


@dataclass(slots=True)
class CleanupReport:
    """What a clean-up did or, when it is dry, would do."""

    dry_run: bool
    """Whether nothing was changed."""

    uploads: Amount = NOTHING
    """Uploads that were given up since nobody went on with them. Their bytes are not known."""

    files_of_gone_jobs: Amount = NOTHING
    """Files that expired with this run, since the job is gone with which they were to be kept."""

    files: Amount = NOTHING
    """Expired files, removed, those of gone jobs among them."""

    removals: Amount = NOTHING
    """Objects of removed files and given up uploads, of this run and of earlier ones, removed from their store."""

    writes: Amount = NOTHING
    """Writes that somebody began and nobody will end, undone; without those of the objects in `removals`."""

    objects: Amount = NOTHING
    """Objects that no row of the database knows, removed."""

    failed: Amount = NOTHING
    """Objects that could not be removed; they are tried again later."""

    waiting: Amount = NOTHING
    """Objects that are still to be removed afterwards, without those that a dry run counts as removed: they are tried again
    later, left alone, or not tried before nothing can be sent to them any more."""

    left_alone: list[str] = field(default_factory=list)
    """Why objects were left alone in a store, for each such store or part of one."""

    problems: list[str] = field(default_factory=list)
    """Which stores did not do what they were asked, and why."""

    seconds: float = 0.0
    """How long it took."""

    def steps(self) -> Sequence[tuple[str, Amount]]:
        """Return what was or would be done, in words, in the order in which it was done."""
        would = "would be " if self.dry_run else ""
        return [
            (f"uploads {would}given up", self.uploads),
            (f"files of gone jobs {'would expire' if self.dry_run else 'expired'}", self.files_of_gone_jobs),
            (f"expired files {would}removed", self.files),
            (f"objects {would}removed", self.removals),
            (f"unfinished writes {would}undone", self.writes),
            (f"objects without a row {would}removed", self.objects),
            *([] if self.dry_run else [("objects not removed, tried again later", self.failed)]),
            ("objects waiting to be removed", self.waiting),
        ]


class CleanupIncompleteError(Exception):
    """A clean-up came to its end, but a store did not do what it was asked; the text says which and why."""

    def __init__(self, report: CleanupReport) -> None:
        super().__init__("; ".join(report.problems))
        self.report = report
