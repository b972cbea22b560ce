"""The figures by name, in the order in which they are taken."""

from collections.abc import Mapping

from bench.figures import (
    bulk,
    clean_up,
    cpu,
    creation,
    drain,
    fairness,
    future,
    history,
    idle,
    memory,
    open_transaction,
    pick_up,
    schedules,
    transfer,
    waiting,
)
from bench.rounds import Figure

FIGURES: Mapping[str, Figure] = {
    "creation": creation.measure,
    "bulk": bulk.measure,
    "drain": drain.measure,
    "pick-up": pick_up.measure,
    "waiting": waiting.measure,
    "future": future.measure,
    "history": history.measure,
    "fairness": fairness.measure,
    "cpu": cpu.measure,
    "memory": memory.measure,
    "idle": idle.measure,
    "schedules": schedules.measure,
    "transfer": transfer.measure,
    "clean-up": clean_up.measure,
    "open-transaction": open_transaction.measure,
}
