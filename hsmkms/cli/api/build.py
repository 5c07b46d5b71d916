"""Generate the commands of the API from its model: one for each operation, with the options of `aws kms`.

A command's options are the members of its request, parsed as the aws CLI parses them. So an operation that is added to
``OPERATIONS`` needs one row in ``COMMANDS``, and no code here (hsmkms/README.md lists all places of a new operation).
"""

import inspect
from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import msgspec
import typer
from msgspec import Struct

from hsmkms.cli import completion, moments
from hsmkms.cli.api import aws_options, overviews, pages, public_key, skeleton, values
from hsmkms.cli.api.aws_options import AwsOptions, Skeleton
from hsmkms.cli.api.confirmations import QUESTIONS, confirm
from hsmkms.cli.api.pages import Page, Paging
from hsmkms.cli.api.public_key import FormatOption, KeyFormat
from hsmkms.cli.api.table import COMMANDS, HELP
from hsmkms.cli.api.values import BinaryFormat
from hsmkms.cli.options import COMMON_OPTIONS, Common, note, with_common
from hsmkms.cli.output import OutputFormat, show
from hsmkms.errors import ValidationException
from hsmkms.model.constraints import enumeration, required_members
from hsmkms.model.enums import Operation
from hsmkms.model.grants import CreateGrantRequest
from hsmkms.model.operations import OPERATIONS
from hsmkms.model.wire import to_wire

_YES: Final = Annotated[bool, typer.Option("--yes", help="Do not prompt for confirmation.")]


def register(app: typer.Typer, only: str = "") -> None:
    """Add a command for every operation of the API, or only the one of a name, if it is one of them."""
    for name, command in _COMMANDS.items():
        if only in ("", name):
            app.command(
                name,
                help=f"{command.summary}\n\nExample: hsmkms {name} {command.example}",
                rich_help_panel=command.panel,
            )(_function(command.operation))


def option_name(name: str) -> str:
    """Convert ``key_id`` or ``CreateKey`` to the name of an option or command: ``key-id``, ``create-key``."""
    spaced = "".join(f"-{each.lower()}" if each.isupper() else each for each in name)
    return spaced.replace("_", "-").strip("-")


_COMMANDS: Final = {option_name(each.operation): each for each in COMMANDS}


def command_names() -> Collection[str]:
    """Return the names of the commands of the API."""
    return _COMMANDS.keys()


def never_operations() -> frozenset[str]:
    """Return the names of the commands of the aws CLI for operations that hsmkms does not have."""
    return frozenset(option_name(each) for each in Operation if each not in OPERATIONS)


def list_options(command: str) -> frozenset[str]:
    """Return the options of a command that accept several values in a row, as in ``--tag-keys a b``.

    For a command that is not of the API, these are the list options of all operations: it uses the API's names.
    """
    commands = [_COMMANDS[command]] if command in _COMMANDS else COMMANDS
    return frozenset(
        f"--{option_name(name)}"
        for each in commands
        for name, kind in _members(each.operation).items()
        if get_origin(kind) is list
    )


def _function(operation: Operation) -> Callable[..., None]:
    """Make the function of a command, with the signature from which typer reads its options."""
    members = _members(operation)
    required = required_members(OPERATIONS[operation].request)

    def command(
        common: Common,
        *,
        yes: bool = True,  # for commands without a question
        output_format: KeyFormat | None = None,
        **given: Any,  # noqa: ANN401 - typer reads the signature below, not this one
    ) -> None:
        aws: AwsOptions = aws_options.taken(given, AwsOptions)
        paging: Paging = aws_options.taken(given, Paging)
        if aws.generate_cli_skeleton is not None:
            show(_sample(operation, aws.generate_cli_skeleton), OutputFormat.JSON)
            return
        # typer passes an empty list for a list option that was not given
        words = {name: value for name, value in given.items() if value is not None and value != []}
        request = OPERATIONS[operation].request(**_request_members(operation, words, aws))
        answer = _answer(operation, common, request, paging, ask=not yes)
        if output_format is not None and answer is not None:
            public_key.write(answer, output_format)
        elif answer is not None:
            common.show(answer)

    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=_annotation(name, kind, required=name in required, complete=_completion(operation, name)),
            default=inspect.Parameter.empty if name in required else None,
        )
        for name, kind in members.items()
    ]
    if operation in QUESTIONS:
        options.append(inspect.Parameter("yes", inspect.Parameter.KEYWORD_ONLY, annotation=_YES, default=False))
    if operation is Operation.GET_PUBLIC_KEY:
        form = inspect.Parameter("output_format", inspect.Parameter.KEYWORD_ONLY, annotation=FormatOption, default=None)
        options.append(form)
    described = aws_options.FOR_ALL | (aws_options.FOR_LISTS if "marker" in members else {})
    options += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=option, default=None)
        for name, option in described.items()
    ]
    common = inspect.Parameter("common", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Common)
    command.__signature__ = inspect.Signature([common, *options])  # type: ignore[attr-defined]
    return with_common(*COMMON_OPTIONS)(command)


def _members(operation: Operation) -> dict[str, Any]:
    """Return the members of an operation's request with their types without None, in the order of the model."""
    request = OPERATIONS[operation].request
    return {name: _bare(kind) for name, kind in get_type_hints(request).items() if name in request.__struct_fields__}


def _bare(kind: Any) -> Any:  # noqa: ANN401 - types of many kinds
    """Return ``str`` for ``str | None``: whether an option is required is decided elsewhere."""
    choices = [each for each in get_args(kind) if each is not type(None)]
    return choices[0] if type(None) in get_args(kind) else kind


def _completion(operation: Operation, name: str) -> completion.Complete | None:
    """Return how a member's values are completed in the shell."""
    if name in completion.BY_MEMBER:
        return completion.BY_MEMBER[name]
    words = enumeration(get_type_hints(OPERATIONS[operation].request, include_extras=True)[name])
    return None if words is None else completion.words(words)


def _annotation(name: str, kind: Any, *, required: bool, complete: completion.Complete | None) -> Any:  # noqa: ANN401 - types of many kinds
    option = f"--{option_name(name)}"
    if kind is bool:
        option += f"/--no-{option_name(name)}"
    python_type, metavar = _OPTION_TYPES.get(get_origin(kind) or kind, (str, "JSON"))
    described = typer.Option(option, help=HELP[name], metavar=metavar, show_default=False, autocompletion=complete)
    return Annotated[python_type if required else python_type | None, described]


_OPTION_TYPES: Final[dict[Any, tuple[Any, str | None]]] = {
    str: (str, "TEXT"),
    int: (int, "NUMBER"),
    bool: (bool, None),
    bytes: (str, "BLOB"),
    dict: (str, "MAP"),
    list: (list[str], "LIST"),
    datetime: (str, "INSTANT"),
}


def _request_members(operation: Operation, words: dict[str, Any], aws: AwsOptions) -> dict[str, Any]:
    """Return the members of the request: those of --cli-input-json, replaced by those that have options."""
    kinds = _members(operation)
    members = {name: _read(name, kinds[name], value, aws.cli_binary_format) for name, value in words.items()}
    if aws.cli_input_json is None:
        return members
    members = _input_members(operation, aws) | members
    for name in sorted(required_members(OPERATIONS[operation].request) - members.keys()):
        raise ValidationException(f"--cli-input-json: this operation needs {_wire_names(operation)[name]}.")
    return members


def _input_members(operation: Operation, aws: AwsOptions) -> dict[str, Any]:
    option, kinds = "--cli-input-json", _members(operation)
    names = {wire: name for name, wire in _wire_names(operation).items()}
    given = values.json_object(option, aws.cli_input_json or "")
    for wire in given:
        if wire not in names:
            raise ValidationException(f"{option}: there is no member {wire!r}; there is: {', '.join(names)}.")
    return {
        names[wire]: values.blob(f"{option}: {wire}", value, aws.cli_binary_format)
        if kinds[names[wire]] is bytes and isinstance(value, str)
        else values.fitted(f"{option}: {wire}", value, kinds[names[wire]])
        for wire, value in given.items()
        if value is not None
    }


def _wire_names(operation: Operation) -> dict[str, str]:
    """Return the API's name of each member."""
    return {each.name: each.encode_name for each in msgspec.structs.fields(OPERATIONS[operation].request)}


def _sample(operation: Operation, wanted: Skeleton) -> dict[str, Any]:
    shape = OPERATIONS[operation]
    kind = shape.request if wanted is Skeleton.INPUT else shape.response
    sample: dict[str, Any] = skeleton.sample(kind) if kind is not None else {}
    return sample


def _read(name: str, kind: Any, value: Any, form: BinaryFormat) -> Any:  # noqa: ANN401 - values of many kinds
    """Convert an option's value for the request: by the member's name, by its type, or unchanged."""
    option = f"--{option_name(name)}"
    if kind is bytes:
        return values.blob(option, value, form)
    if name in _BY_NAME:
        return _BY_NAME[name](value)
    read = _BY_TYPE.get(get_origin(kind) or kind)
    if read is not None:
        return read(option, value, kind)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return values.structure(option, value, kind)
    return value


_BY_NAME: Final[dict[str, Callable[[str], str]]] = {
    "alias_name": values.alias_name,
    "key_id": values.key_name,
    "source_key_id": values.key_name,
    "destination_key_id": values.key_name,
    "policy": lambda value: values.document("--policy", value),
}
_BY_TYPE: Final[dict[Any, Callable[[str, Any, Any], Any]]] = {
    str: lambda option, value, _: values.text(option, value),
    datetime: lambda option, value, _: moments.instant(option, value),
    dict: lambda option, value, _: values.mapping(option, value),
    list: lambda option, value, kind: values.items(option, value, get_args(kind)[0]),
}


def _answer(
    operation: Operation, common: Common, request: Struct, paging: Paging, *, ask: bool
) -> dict[str, Any] | None:
    with common.open() as kms:
        caller = common.caller(kms)
        if ask:
            confirm(operation, kms, request, caller)
        method = getattr(kms, option_name(operation).replace("-", "_"))
        if isinstance(request, _Listing) and request.marker is None and request.limit is None:
            listed = pages.collect(partial(_page, method, request, caller), paging)
            return overviews.widened(operation, kms, listed, common)
        answer = method(request, caller)
        policy = getattr(request, "policy", None)
        if policy is not None:
            note(kms.operator.notes.of_key_policy(policy))
        if isinstance(request, CreateGrantRequest):
            note(kms.operator.notes.of_grant(request))
        if operation is Operation.CANCEL_KEY_DELETION:
            note(["the key is not deleted, and cannot be used before `hsmkms enable-key`"])
        return None if answer is None else overviews.widened(operation, kms, to_wire(answer), common)


@runtime_checkable
class _Listing(Protocol):
    """A request whose answer comes in pages."""

    marker: str | None
    limit: int | None


def _page(method: Callable[..., Struct], request: Any, caller: Any, marker: str | None, limit: int | None) -> Page:  # noqa: ANN401 - see _answer
    return to_wire(method(msgspec.structs.replace(request, marker=marker, limit=limit), caller))
