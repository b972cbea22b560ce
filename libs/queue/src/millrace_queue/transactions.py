"""Transactions of operations that take locks and then look."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from millrace_queue.entries import Connection


@asynccontextmanager
async def in_transaction(conn: Connection) -> AsyncIterator[None]:
    """Work in the transaction that is open on the connection, or in one of its own."""
    if conn.is_in_transaction():
        yield
        return
    async with conn.transaction():
        yield
