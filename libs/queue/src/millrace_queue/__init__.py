"""Millrace's queue engine in Postgres: entries, leases and fences.

Every operation takes the caller's connection and runs in the caller's transaction. Times are the database's.
"""

from millrace_queue.claiming import ClaimCursor, claim
from millrace_queue.entries import (
    CancelOutcome,
    Claim,
    Connection,
    FailOutcome,
    Failure,
    HandBack,
    Heartbeat,
    HeldLease,
    Lease,
    NewEntry,
    Rescue,
    Rescued,
    Settled,
)
from millrace_queue.leases import complete, confirm, confirm_free, fail, hand_back, settle_cancelled
from millrace_queue.notifications import CHANNEL_READY, Listener, Notifier
from millrace_queue.waiting import cancel, enqueue, promote, seconds_until_due
from millrace_queue.workers import heartbeat, held_leases, register_worker, rescue, unregister_worker

__all__ = [
    "CHANNEL_READY",
    "CancelOutcome",
    "Claim",
    "ClaimCursor",
    "Connection",
    "FailOutcome",
    "Failure",
    "HandBack",
    "Heartbeat",
    "HeldLease",
    "Lease",
    "Listener",
    "NewEntry",
    "Notifier",
    "Rescue",
    "Rescued",
    "Settled",
    "cancel",
    "claim",
    "complete",
    "confirm",
    "confirm_free",
    "enqueue",
    "fail",
    "hand_back",
    "heartbeat",
    "held_leases",
    "promote",
    "register_worker",
    "rescue",
    "seconds_until_due",
    "settle_cancelled",
    "unregister_worker",
]
