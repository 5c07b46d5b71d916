"""Rewrite command lines that the aws CLI accepts: lists of words, `help`, options for all its commands."""

from collections.abc import Sequence
from typing import Final

from hsmkms.cli.api import build as api
from hsmkms.cli.api.aws_options import Skeleton
from hsmkms.errors import UnsupportedOperationException, ValidationException

BEFORE_THE_COMMAND: Final = frozenset({"--config", "--region", "--output", "--query", "--as"})
"""The options with a value that may stand before the command's name."""

_MOVED: Final = frozenset({"--cli-binary-format"})
"""Options with a value that the aws CLI takes before the command's name, and hsmkms after it."""

_WITHOUT_EFFECT: Final = frozenset({"--no-cli-pager", "--no-cli-auto-prompt"})
"""Options of the aws CLI that ask for what hsmkms does anyway."""

_REFUSED: Final = {
    "--profile": "hsmkms has no profiles: --as USER acts as a user, --region names a region, --config a configuration",
    "--endpoint-url": "commands of hsmkms open the installation themselves, without a server: see --config",
    "--no-sign-request": "commands of hsmkms sign nothing: --as USER acts as a user",
    "--no-verify-ssl": "commands of hsmkms open the installation themselves, without a server",
    "--ca-bundle": "commands of hsmkms open the installation themselves, without a server",
}
"""Options of the aws CLI that mean nothing here, with what to do instead."""

_SKELETON: Final = "--generate-cli-skeleton"


def command_of(arguments: Sequence[str]) -> str:
    """Return the command's name in the arguments; empty if there is none, or an option before it that is not common."""
    place = _place_of_command(arguments)
    return "" if place is None else arguments[place]


def rewritten(arguments: Sequence[str], commands: frozenset[str]) -> list[str]:
    """Return the arguments as hsmkms reads them, for the names of all its commands.

    Raises ValidationException for an option of the aws CLI that means nothing here, UnsupportedOperationException for
    an operation that there will never be.
    """
    words = [each for each in _moved(arguments) if each not in _WITHOUT_EFFECT]
    place = _place_of_command(words)
    if place is None:
        return words
    name, after = words[place], words[place + 1 :]
    if name == "help" and name not in commands:
        return [*words[:place], *after[:1], "--help"]
    if name not in commands:
        _refuse_operation(name)
        return words
    if after == ["help"]:
        return [*words[: place + 1], "--help"]
    if name in api.command_names():
        _refuse_options(after)
    return [*words[: place + 1], *_with_skeleton(_repeated(name, after))]


def is_sample(arguments: Sequence[str]) -> bool:
    """Return True if the members of the request are not all in options: then no option is required."""
    return any(each.partition("=")[0] in ("--cli-input-json", _SKELETON) for each in arguments)


def _place_of_command(arguments: Sequence[str]) -> int | None:
    place = 0
    while place < len(arguments):
        word = arguments[place]
        if not word.startswith("-"):
            return place
        if word in BEFORE_THE_COMMAND:
            place += 1
        elif not word.startswith(tuple(f"{option}=" for option in BEFORE_THE_COMMAND)):
            return None
        place += 1
    return None


def _moved(arguments: Sequence[str]) -> list[str]:
    """Move options that hsmkms takes only after the command's name to the end."""
    words, moved = list(arguments), []
    while (place := next((index for index, each in enumerate(words) if each in _MOVED), len(words))) < len(words) - 1:
        moved += [f"{words[place]}={words[place + 1]}"]
        del words[place : place + 2]
    return words + moved


def _refuse_operation(name: str) -> None:
    if name in api.never_operations():
        raise UnsupportedOperationException(
            f"hsmkms does not have {name}: it has no custom key stores, since all backing keys are on its own tokens "
            "(`hsmkms list-tokens`)."
        )


def _refuse_options(words: Sequence[str]) -> None:
    for word in words:
        advice = _REFUSED.get(word.partition("=")[0])
        if advice is not None:
            raise ValidationException(f"{word.partition('=')[0]}: {advice}.")


def _with_skeleton(words: Sequence[str]) -> list[str]:
    """Give --generate-cli-skeleton its default value, ``input``."""
    given: list[str] = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        bare = word == _SKELETON and following not in tuple(Skeleton)
        given.append(f"{_SKELETON}={Skeleton.INPUT}" if bare else word)
    return given


def _repeated(name: str, words: Sequence[str]) -> list[str]:
    """Rewrite ``--tag-keys a b`` to ``--tag-keys a --tag-keys b``: the aws CLI accepts several values of a list."""
    lists = api.list_options(name)
    repeated: list[str] = []
    current: str | None = None
    fresh = False
    for word in words:
        if word.startswith("--"):
            current = word if word in lists else None
            fresh = True
        elif current is not None and not fresh:
            repeated.append(current)
            fresh = False
        else:
            fresh = False
        repeated.append(word)
    return repeated
