"""Millrace's queue engine in Postgres: entries, leases and fences.

Every operation takes the caller's connection and runs in the caller's transaction. Times are the database's.
"""

from millrace_queue.claiming import ClaimGates, claim
from millrace_queue.entries import (
    CancelOutcome,
    Claim,
    Concurrency,
    Connection,
    Expired,
    FailOutcome,
    Failure,
    HandBack,
    Heartbeat,
    HeldLease,
    KeyOrder,
    Lease,
    NewEntry,
    Rescue,
    Rescued,
    Settled,
    Snooze,
    Unique,
    UniqueWhile,
)
from millrace_queue.failing import fail, lapse, snooze
from millrace_queue.gates import Ended, Freed, release, unblock_key
from millrace_queue.leases import (
    complete,
    confirm,
    confirm_alone,
    confirm_alone_free,
    confirm_free,
    hand_back,
    settle_cancelled,
)
from millrace_queue.line_statements import ENTER_PLAIN
from millrace_queue.lines import ServedRanks, add_lines, keep_lines
from millrace_queue.notifications import CHANNEL_READY, Listener, Notifier
from millrace_queue.outlook import Outlook, look
from millrace_queue.rates import Rate
from millrace_queue.statements import CLAIMED, COMPLETED
from millrace_queue.sweeping import Sweep, SweepProgress, sweep_gates
from millrace_queue.tenant_control import pause_tenant, resume_tenant, set_tenant
from millrace_queue.tenants import Tenant, get_tenant
from millrace_queue.throttles import LetIn, Throttle, enter_throttles, find_throttles, remove_ended_throttles
from millrace_queue.transactions import in_transaction
from millrace_queue.turns import MANY, Share, take_turns
from millrace_queue.type_gates import TypeGates, pause_type, resume_type, set_type_limits
from millrace_queue.unique_keys import Holder, find_holders, replace_waiting
from millrace_queue.waiting import (
    cancel,
    cancel_free,
    enqueue,
    expire,
    hasten,
    promote,
    seconds_until_due,
    seconds_until_expiry,
)
from millrace_queue.workers import (
    count_forgettable_workers,
    forget_lost_workers,
    heartbeat,
    held_leases,
    register_worker,
    rescue,
    unregister_worker,
)

__all__ = [
    "CHANNEL_READY",
    "CLAIMED",
    "COMPLETED",
    "ENTER_PLAIN",
    "MANY",
    "CancelOutcome",
    "Claim",
    "ClaimGates",
    "Concurrency",
    "Connection",
    "Ended",
    "Expired",
    "FailOutcome",
    "Failure",
    "Freed",
    "HandBack",
    "Heartbeat",
    "HeldLease",
    "Holder",
    "KeyOrder",
    "Lease",
    "LetIn",
    "Listener",
    "NewEntry",
    "Notifier",
    "Outlook",
    "Rate",
    "Rescue",
    "Rescued",
    "ServedRanks",
    "Settled",
    "Share",
    "Snooze",
    "Sweep",
    "SweepProgress",
    "Tenant",
    "Throttle",
    "TypeGates",
    "Unique",
    "UniqueWhile",
    "add_lines",
    "cancel",
    "cancel_free",
    "claim",
    "complete",
    "confirm",
    "confirm_alone",
    "confirm_alone_free",
    "confirm_free",
    "count_forgettable_workers",
    "enqueue",
    "enter_throttles",
    "expire",
    "fail",
    "find_holders",
    "find_throttles",
    "forget_lost_workers",
    "get_tenant",
    "hand_back",
    "hasten",
    "heartbeat",
    "held_leases",
    "in_transaction",
    "keep_lines",
    "lapse",
    "look",
    "pause_tenant",
    "pause_type",
    "promote",
    "register_worker",
    "release",
    "remove_ended_throttles",
    "replace_waiting",
    "rescue",
    "resume_tenant",
    "resume_type",
    "seconds_until_due",
    "seconds_until_expiry",
    "set_tenant",
    "set_type_limits",
    "settle_cancelled",
    "snooze",
    "sweep_gates",
    "take_turns",
    "unblock_key",
    "unregister_worker",
]
