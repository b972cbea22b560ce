"""Commands that do the same with several things."""

from collections.abc import Awaitable, Callable, Sequence

import typer

from millrace_client.command.failures import FAILURES, complain_of, is_unreachable
from millrace_client.command.output import complain, complain_below


async def each(names: Sequence[str], handle: Callable[[str], Awaitable[None]]) -> None:
    """Do something with each of several things in turn; what goes wrong with one is said, and the others come all the same.

    In the end it exits with the code of the first error. A service or a store that cannot be reached ends it at once, and what
    was not tried is said.
    """
    if len(names) == 1:
        return await handle(names[0])
    exit_codes = []
    for tried, name in enumerate(names, 1):
        try:
            await handle(name)
        except BrokenPipeError:
            raise
        except typer.BadParameter as error:
            complain(f"{name}: {error.format_message()}")
            exit_codes.append(error.exit_code)
        except FAILURES as error:
            exit_codes.append(complain_of(error, name))
            if is_unreachable(error):
                _say_untried(names[tried:])
                break
    if exit_codes:
        raise typer.Exit(exit_codes[0])
    return None


def _say_untried(names: Sequence[str]) -> None:
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        complain_below(f"not tried: {names[0]}{others}")
