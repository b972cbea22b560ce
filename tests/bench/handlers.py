"""Jobs that do nothing, for a worker with MILLRACE_HANDLERS=bench.handlers. Each tells when its handler was entered, on
the monotonic clock, which all processes of a machine share.
"""

import time

from pydantic import BaseModel

from bench.scale import SLOTS
from millrace_worker import JobContext, SyncJobContext, job_handler


class SmallInput(BaseModel):
    number: int
    name: str
    urgent: bool


class Address(BaseModel):
    street: str
    city: str
    country: str


class Customer(BaseModel):
    name: str
    email: str
    address: Address


class Item(BaseModel):
    article: str
    quantity: int
    price: float


class NestedInput(BaseModel):
    number: int
    customer: Customer
    items: list[Item]


@job_handler("bench:noop", concurrency=SLOTS)
async def noop(context: JobContext[SmallInput]) -> dict[str, float]:
    return {"entered_at": time.monotonic()}


@job_handler("bench:noop-thread", concurrency=SLOTS)
def noop_in_thread(context: SyncJobContext[SmallInput]) -> dict[str, float]:
    return {"entered_at": time.monotonic()}


@job_handler("bench:nested", concurrency=SLOTS)
async def nested(context: JobContext[NestedInput]) -> dict[str, float]:
    return {"entered_at": time.monotonic()}
