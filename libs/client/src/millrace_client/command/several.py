"""Commands that do the same with several things."""

from collections.abc import Awaitable, Callable, Sequence

import typer

from millrace_client.command.failures import FAILURES, complain_of
from millrace_client.command.output import complain
from millrace_client.errors import UnavailableError


async def each(names: Sequence[str], handle: Callable[[str], Awaitable[None]]) -> None:
    """Do something with each of several things in turn; what goes wrong with one is said, and the others come all the same.

    In the end it exits with the code of the first error. A service that cannot be reached ends it at once.
    """
    if len(names) == 1:
        return await handle(names[0])
    exit_codes = []
    for name in names:
        try:
            await handle(name)
        except (UnavailableError, BrokenPipeError):
            raise
        except typer.BadParameter as error:
            complain(f"{name}: {error.format_message()}")
            exit_codes.append(error.exit_code)
        except FAILURES as error:
            exit_codes.append(complain_of(error, name))
    if exit_codes:
        raise typer.Exit(exit_codes[0])
    return None
