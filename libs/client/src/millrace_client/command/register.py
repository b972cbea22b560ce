"""How a command becomes part of the `millrace` command: its options, its client, its exit code."""

import asyncio
import contextlib
import inspect
import signal
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import typer

from millrace_client.client import Millrace
from millrace_client.command.failures import FAILURES, complain_of
from millrace_client.command.global_options import CONTEXT, GLOBAL_PARAMETERS, GlobalOptions
from millrace_client.command.output import Output

# As shells say of a process that SIGTERM has ended.
_TERMINATED_EXIT_CODE = 128 + 15

Handler = TypeVar("Handler", bound=Callable[..., Coroutine[Any, Any, None]])


def command(app: typer.Typer, name: str, *, of_organisation: bool = True) -> Callable[[Handler], Handler]:
    """Add an asynchronous function to an app, as a command that also accepts the global options.

    The function gets a client and the output first, and then its own options. A parameter of a dataclass's
    type stands for options that several commands have: one for each of its fields. A command `of_organisation`
    is refused when no organisation is given.
    """

    def register(handler: Handler) -> Handler:
        signature = inspect.signature(handler)
        own = list(signature.parameters.values())[2:]
        groups: dict[str, Callable[..., Any]] = {
            group.name: group.annotation for group in own if _is_group(group)
        }

        def run(ctx: typer.Context, **values: Any) -> None:
            given = GlobalOptions(
                **{option.name: values.pop(option.name) for option in fields(GlobalOptions)}
            )
            options = ctx.obj.merged_with(given)
            for parameter, group in groups.items():
                values[parameter] = group(
                    **{option: values.pop(option) for option in inspect.signature(group).parameters}
                )

            async def invoke() -> None:
                async with _open_client(options) as client:
                    if of_organisation and not client.org_id:
                        raise typer.BadParameter(
                            "give --org, or set MILLRACE_ORG_ID", ctx, param_hint="--org"
                        )
                    await handler(client, Output(as_json=options.as_json), **values)

            _run(invoke())

        options = (option.replace(kind=CONTEXT.kind) for group in own for option in _options_of(group))
        parameters = [CONTEXT, *options, *GLOBAL_PARAMETERS]
        run.__doc__ = handler.__doc__
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by typer
        app.command(name)(run)
        return handler

    return register


def _options_of(parameter: inspect.Parameter) -> Iterable[inspect.Parameter]:
    if not _is_group(parameter):
        return [parameter]
    return inspect.signature(parameter.annotation).parameters.values()


def _is_group(parameter: inspect.Parameter) -> bool:
    return is_dataclass(parameter.annotation)


def _open_client(options: GlobalOptions) -> Millrace:
    return Millrace(
        options.jobs_address,
        scheduler=options.scheduler_address,
        worker=options.worker_address,
        org_id=options.org,
    )


def _run(invocation: Coroutine[Any, Any, None]) -> None:
    """Run a command to its end; what goes wrong becomes a message and an exit code."""
    try:
        asyncio.run(_until_terminated(invocation))
    except BrokenPipeError:  # whoever read the output has seen enough
        raise
    except FAILURES as error:
        raise typer.Exit(complain_of(error)) from error


async def _until_terminated(invocation: Coroutine[Any, Any, None]) -> None:
    """Run a command to its end; SIGTERM ends it as Ctrl-C does, in good order, and a second one at once."""
    loop, running = asyncio.get_running_loop(), asyncio.ensure_future(invocation)
    is_terminated = False

    def terminate() -> None:
        nonlocal is_terminated
        is_terminated = True
        loop.remove_signal_handler(signal.SIGTERM)
        running.cancel()

    # Windows has no such thing, nor has a loop outside the main thread.
    with contextlib.suppress(RuntimeError):
        loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        await running
    except asyncio.CancelledError:
        if is_terminated:
            raise typer.Exit(_TERMINATED_EXIT_CODE) from None
        raise
