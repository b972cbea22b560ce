"""What is said of stores that do not do what they are asked."""

from millrace_storage.file_errors import StoreNotConfigured
from millrace_storage.object_store import StoreRefusedError, StoreUnavailableError

STORE_ERRORS = (StoreUnavailableError, StoreRefusedError, StoreNotConfigured)
"""What may be the matter with a whole store."""


def describe_problem(provider: str, bucket: str, error: Exception) -> str:
    """Return a sentence, without its full stop, about a store that did not do what it was asked."""
    if isinstance(error, StoreNotConfigured):
        return str(error)
    did = "refused the request" if isinstance(error, StoreRefusedError) else "is away"
    return f"the object store {store_name(provider, bucket)} {did}: {error}"


def store_name(provider: str, bucket: str) -> str:
    """Return how a store is named to people."""
    return f"{provider} ({bucket})" if bucket else provider
