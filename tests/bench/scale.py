from dataclasses import dataclass

SLOTS = 2_000
"""Jobs that a worker runs at once in a drain."""


@dataclass(frozen=True)
class Scale:
    """How much a run measures. The defaults are the full run, which docs/performance.md speaks of."""

    rounds: int = 3
    """How often each figure is taken."""

    jobs: int = 20_000
    """Jobs that are created or drained at a time."""

    worker_processes: int = 4
    """Processes of the drain by several."""

    calls: int = 5_000
    """Calls with 50 in flight; with one in flight a tenth of them."""

    pick_ups: int = 300
    """Jobs whose pick-up is timed, over all rounds."""

    waiting: int = 1_000_000
    """Other entries that wait: ready ones, or future ones."""

    history: int = 10_000_000
    """Finished jobs."""

    flood: int = 100_000
    """Waiting jobs of the organisation that floods."""

    schedules: int = 10_000
    """Schedules that are due at the same time."""

    file_mebibytes: int = 2_048
    """The length of the file that is transferred."""

    expired_files: int = 100_000
    """Files that are cleaned up, beside as many that stay."""

    settled_seconds: float = 3.0
    """How long services may be busy with their start before they are observed."""

    idle_seconds: float = 10.0
    """How long an idle worker is observed at a time."""

    open_seconds: float = 60.0
    """How long a transaction is held open."""

    at_once: int = 1
    """How many figures are taken at the same time: more than one makes nonsense of them, quickly."""


QUICK = Scale(
    rounds=1,
    jobs=400,
    worker_processes=2,
    calls=100,
    pick_ups=5,
    waiting=1_000,
    history=1_000,
    flood=1_000,
    schedules=100,
    file_mebibytes=8,
    expired_files=100,
    settled_seconds=0.2,
    idle_seconds=0.5,
    open_seconds=1.0,
    at_once=4,
)
"""Takes every figure once, on too little to mean anything."""
