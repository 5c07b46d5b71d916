"""Define the command line's entry point: the application, its common options, and the only place that prints errors."""

import gc
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.main import get_command

from hsmkms.cli import arguments
from hsmkms.cli.api import build as api
from hsmkms.cli.coercion import avoid_pydantic
from hsmkms.cli.commands import MODULES
from hsmkms.cli.errors import describe
from hsmkms.cli.options import (
    AsOption,
    Common,
    ConfigOption,
    OutputOption,
    QueryOption,
    RegionOption,
    StatusError,
    runnable,
)
from hsmkms.errors import HsmKmsError
from hsmkms.hardening import keep_secrets

HELP_OPTIONS: Final = frozenset({"-h", "--help"})
DEBUG_VARIABLE: Final = "HSMKMS_DEBUG"
OBJECTS_BEFORE_COLLECTION: Final = 50_000
"""Importing makes more objects than Python's 700, and next to no garbage: a tenth of a command's time went into it."""
SETUP: Final = "setup"
"""The module after whose commands those of the API come in the help."""
_MARKUP: Final = re.compile(r"(\[[a-z#/@][^\[]*?\])")
"""The pattern of ``rich.markup.escape``; Rich itself is imported only for help."""


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes the option's value
    if wanted:
        from importlib import metadata  # noqa: PLC0415 - it takes as long to import as half of typer

        print(f"hsmkms {metadata.version('hsmkms')}")
        raise typer.Exit


def common_options(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    region: RegionOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
    user: AsOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Keep the options that stand before the command's name."""
    del version  # shown by its callback
    context.obj = Common(config=config, region=region, output=output, query=query, user=user)


def application(name: str = "") -> typer.Typer:
    """Return the application with only the command or group of this name; without such a one, with all.

    Importing the modules and reading the signatures of all commands takes longer than most commands.
    """
    only = name if name in _command_names() else ""
    app = typer.Typer(
        name="hsmkms",
        help="A key management service on your own HSM, with the life cycle and the API of AWS KMS.\n\n"
        "Commands of the API carry the names and options of `aws kms`.\n\n"
        "Example: hsmkms init --data-dir ./hsmkms-data --create-softhsm-token",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": sorted(HELP_OPTIONS)},
    )
    app.callback()(common_options)
    for module, names in MODULES.items():
        if only in ("", *names):
            import_module(f"hsmkms.cli.commands.{module}").register(app)
        if module == SETUP:
            api.register(app, only)
    if only:
        app.registered_commands = [each for each in app.registered_commands if each.name == only]
    return app


def main() -> None:
    """Run the command line: status 0, 1 for an error (of `audit verify` 3 in some cases), 2 for wrong usage."""
    keep_secrets()
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    _log_to_stderr()
    avoid_pydantic()
    try:
        try:
            words = arguments.rewritten(sys.argv[1:], _command_names())
            command = get_command(application(arguments.command_of(words)))
            keep_brackets(command)
            if not HELP_OPTIONS.isdisjoint(words):
                from hsmkms.cli.help_layout import never_cut_options  # noqa: PLC0415 - other commands do not need Rich

                never_cut_options()
            if arguments.is_sample(words):
                _require_nothing(command)
            command(args=words, prog_name="hsmkms")
        finally:
            _flush()
    except HsmKmsError as exc:
        _end(_runnable(describe(exc), sys.argv[1:]))
    except StatusError as exc:
        _end(_runnable(describe(exc.error), sys.argv[1:]), exc.status)
    except OSError as exc:
        _end(_of_system(exc))
    except Exception as exc:  # noqa: BLE001 - the edge: unexpected exceptions are reported without a traceback
        _end(f"internal error ({type(exc).__name__}); set {DEBUG_VARIABLE}=1 to see where")


def _of_system(error: OSError) -> str:
    """Describe a refusal of the operating system that no layer has translated: by the file, if there is one."""
    if error.filename is None:
        return f"internal error ({type(error).__name__}: {error.strerror}); set {DEBUG_VARIABLE}=1 to see where"
    place = shlex.quote(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else error.filename
    return f"StoreError: {place} cannot be used: {error.strerror}. Check its owner and mode, and those of its folders"


def keep_brackets(command: Any) -> None:  # noqa: ANN401 - a command of the click that typer contains
    """Escape what Rich would parse as markup in all help texts of a command: here ``[serve]`` is a part of a file."""
    for each in (command, *command.params):
        for name in ("help", "short_help", "epilog"):
            text = getattr(each, name, None)
            if isinstance(text, str):
                setattr(each, name, _MARKUP.sub(r"\\\1", text))
    for below in getattr(command, "commands", {}).values():
        keep_brackets(below)


def _require_nothing(command: Any) -> None:  # noqa: ANN401 - see keep_brackets
    """Make all options optional, below all groups: the members of the request are given otherwise."""
    for each in command.params:
        each.required = False
    for below in getattr(command, "commands", {}).values():
        _require_nothing(below)


def _command_names() -> frozenset[str]:
    """Return the names of all commands and groups."""
    return frozenset((*api.command_names(), *chain.from_iterable(MODULES.values())))


def _runnable(sentence: str, words: Sequence[str]) -> str:
    """Return the message, with --config in its advice if the command line named a configuration."""
    given = ("", *words)
    named = [word for option, word in pairwise(given) if option == "--config"]
    named += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    return runnable(sentence, Path(named[-1])) if named else sentence


class _OneLine(logging.Formatter):
    """Formats a log record as one line; the traceback is printed only if HSMKMS_DEBUG is set."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, by default without its traceback."""
        if not os.environ.get(DEBUG_VARIABLE):
            record.exc_info = record.exc_text = None
        return super().format(record)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("hsmkms: log: %(message)s"))
    logging.getLogger("hsmkms").addHandler(handler)


def _flush() -> None:
    """Flush standard output; at its exit the interpreter would do it too late for an error to set the status."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        # Redirect it to /dev/null: otherwise the interpreter flushes again and prints an error of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(exc, BrokenPipeError):
            sys.exit(1)  # the reader has closed the pipe: print nothing
        _end(f"the answer cannot be written: {exc.strerror}")


def _end(sentence: str, status: int = 1) -> None:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exc()
    print(f"hsmkms: {sentence}", file=sys.stderr)
    sys.exit(status)
