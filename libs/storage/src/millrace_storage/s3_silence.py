"""Telling an S3 server that is silent from one that only takes its time."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from millrace_storage.object_store import StoreUnavailableError

# So often bodies are looked at before a server is asked.
_LOOKS = 10

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SilenceTimes:
    """When a server counts as silent."""

    patience_seconds: float = 10.0
    """So long there may be no answer of any kind before the server is asked for a sign of life."""

    question_seconds: float = 5.0
    """How long that sign may take."""

    pause_seconds: float = 5.0
    """A server that is silent is asked again after this."""


class _Waiting:
    """A request without an answer."""

    def __init__(self, taken: Callable[[], int]) -> None:
        self.since = _now()
        self._taken = taken
        self._seen = taken()

    def has_more_taken(self) -> bool:
        """Return whether more of its body has been taken than at the last time."""
        before, self._seen = self._seen, self._taken()
        return self._seen > before


class SilenceWatch:
    """Notices that a server answers nothing at all, so that not each request has to find it out for itself.

    One answer, or a sign of life, is enough for all requests to wait on: each may take its time. It is one, too, that
    more of a request is taken: behind all that is sent on a slow line nothing else gets through.
    """

    def __init__(self, lives: Callable[[str], Awaitable[bool]], times: SilenceTimes) -> None:
        """Take what asks a server, by its URL, for a sign of life; it is not called twice at a time."""
        self._lives = lives
        self._times = times
        self._server = ""
        self._waiting: dict[asyncio.Timeout, _Waiting] = {}
        self._heard_at = -math.inf
        self._silent_since: float | None = None
        self._asked_again_at = -math.inf
        self._question: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closed = True
        tasks = [task for task in (self._looking, self._question) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def answer_due(
        self, server: str | None = None, taken: Callable[[], int] = lambda: 0
    ) -> AsyncIterator[None]:
        """Wait in this block for an answer, which has come when it ends without an error.

        `server` is the URL to be asked for a sign of life, if not that of the request before, and `taken` tells how many
        bytes of the request's body have been taken so far. Raises StoreUnavailableError as soon as the server is known to be
        silent.
        """
        self._server = server or self._server
        await self.admit()
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._waiting[limit] = _Waiting(taken)
                self._look()
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._silence() from None
        finally:
            self._waiting.pop(limit, None)
        self._hear()

    async def admit(self) -> None:
        """Let something begin that needs the server.

        Raises StoreUnavailableError while that is known to be silent, and after the end. Now and then one asks first
        whether it still is silent; the others need not wait for that.
        """
        if self._is_closed:
            # The client would repeat what fails at its end, on connections that nobody closes any more.
            raise StoreUnavailableError("the object store is not used any more")
        if self._silent_since is None:
            return
        if _now() < self._asked_again_at + self._times.pause_seconds:
            raise self._silence()
        self._asked_again_at = math.inf
        try:
            await self.ask()
        finally:
            self._asked_again_at = _now()

    async def ask(self) -> None:
        """Ask for a sign of life now, or wait for the answer to who asks already.

        Raises StoreUnavailableError when there is none.
        """
        await self._answered()
        if self._silent_since is not None:
            raise self._silence()

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._ask_when_quiet())

    async def _ask_when_quiet(self) -> None:
        while self._waiting:
            patience = self._quiet_since() + self._times.patience_seconds - _now()
            if patience > 0:
                await asyncio.sleep(min(patience, self._times.patience_seconds / _LOOKS))
                self._look_at_bodies()
            else:
                await self._answered()

    async def _answered(self) -> None:
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask())
        # Others wait for it too.
        await asyncio.shield(self._question)

    async def _ask(self) -> None:
        asked_at = _now()
        lives = await self._lives(self._server)
        self._look_at_bodies()
        if lives or self._heard_at > asked_at:
            self._hear()
        else:
            self._fall_silent()

    def _look_at_bodies(self) -> None:
        if [waiting for waiting in self._waiting.values() if waiting.has_more_taken()]:
            self._heard_at = _now()

    def _quiet_since(self) -> float:
        first = next(iter(self._waiting.values()), None)
        return max(self._heard_at, _now() if first is None else first.since)

    def _hear(self) -> None:
        self._heard_at = _now()
        if self._silent_since is not None:
            self._silent_since = None
            _logger.info("the object store answers again")

    def _fall_silent(self) -> None:
        if self._silent_since is None:
            self._silent_since = self._quiet_since()
            self._asked_again_at = _now()
            _logger.warning("the object store is silent: requests to it fail until it gives a sign of life")
        for limit in self._waiting:
            limit.reschedule(_now())
        self._waiting.clear()

    def _silence(self) -> StoreUnavailableError:
        since = _now() if self._silent_since is None else self._silent_since
        return StoreUnavailableError(
            f"the object store has not answered for {_now() - since:.0f} seconds",
            retry_after=timedelta(seconds=self._next_answer_seconds()),
        )

    def _next_answer_seconds(self) -> int:
        """Return after how long it may be known that the server answers again."""
        pause = self._asked_again_at + self._times.pause_seconds - _now()
        is_asked = math.isinf(self._asked_again_at) or self._silent_since is None
        return max(1, math.ceil(self._times.question_seconds if is_asked else pause))


def _now() -> float:
    return asyncio.get_running_loop().time()
