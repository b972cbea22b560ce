"""Finding out at a start whether new files can be kept."""

import asyncio
import logging

from millrace_storage.object_store import (
    ObjectStore,
    StoreRefusedError,
    StoreUnavailableError,
    StoreUnusableError,
)
from millrace_storage.store_problems import describe_problem, store_name

_CHECK_SECONDS = 5.0

_logger = logging.getLogger(__name__)


async def check_store(store: ObjectStore) -> None:
    """Ask a store whether it can be used, for some seconds; what may pass, or does not say so for certain, is a warning.

    Raises StoreUnusableError when it cannot.
    """
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await store.check()
    except StoreUnusableError:
        raise
    except (StoreUnavailableError, StoreRefusedError) as error:
        _warn(describe_problem(store.provider, store.bucket, error))
    except TimeoutError:
        _warn(f"the object store {store_name(store.provider, store.bucket)} does not answer")


def _warn(problem: str) -> None:
    _logger.warning("it is not known whether new files can be kept", extra={"error": problem})
