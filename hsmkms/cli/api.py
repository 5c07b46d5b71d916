"""The commands of the API, made from its model: one for each operation, with the options of `aws kms`.

A command's options are the members of its request, read as the aws CLI reads them. So an operation that is added to
``OPERATIONS`` needs one row in ``COMMANDS`` here, and no code.
"""

import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
import typer
from msgspec import Struct

from hsmkms.cli import public_key, values
from hsmkms.cli.invocation import Common, ConfigOption, OutputOption, QueryOption, RegionOption, outer_options
from hsmkms.cli.public_key import FormatOption, KeyFormat
from hsmkms.cli.questions import QUESTIONS, at_a_terminal
from hsmkms.model.constraints import required_members
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.model.wire import to_wire

KEYS: Final = "Keys"
ROTATION: Final = "Rotation"
IMPORT: Final = "Imported key material"
DELETION: Final = "Deletion"
ALIASES: Final = "Aliases"
TAGS: Final = "Tags"
CRYPTOGRAPHY: Final = "Cryptography"
KEY_PAIRS: Final = "Key pairs and HMAC keys"


class Command(Struct, frozen=True):
    """How an operation looks on the command line."""

    operation: Operation
    panel: str
    summary: str
    example: str


COMMANDS: Final = (
    Command(
        Operation.CREATE_KEY, KEYS, "Make a KMS key; its backing key never leaves the token.", "--description photos"
    ),
    Command(Operation.DESCRIBE_KEY, KEYS, "Tell the metadata of a key.", "--key-id alias/photos"),
    Command(Operation.LIST_KEYS, KEYS, "List the keys of the region.", "--output text --query 'Keys[].KeyId'"),
    Command(
        Operation.UPDATE_KEY_DESCRIPTION,
        KEYS,
        "Replace a key's description.",
        "--key-id KEY_ID --description 'old photos'",
    ),
    Command(Operation.ENABLE_KEY, KEYS, "Make a disabled key usable again.", "--key-id KEY_ID"),
    Command(Operation.DISABLE_KEY, KEYS, "Make a key unusable, at once and everywhere.", "--key-id KEY_ID"),
    Command(
        Operation.REPLICATE_KEY,
        KEYS,
        "Make a replica of a multi-Region key in another region.",
        "--key-id KEY_ID --replica-region eu-west-1",
    ),
    Command(
        Operation.UPDATE_PRIMARY_REGION,
        KEYS,
        "Make a replica the primary key of its set.",
        "--key-id KEY_ID --primary-region eu-west-1",
    ),
    Command(Operation.ENABLE_KEY_ROTATION, ROTATION, "Rotate a key automatically, from now on.", "--key-id KEY_ID"),
    Command(Operation.DISABLE_KEY_ROTATION, ROTATION, "Rotate a key automatically no more.", "--key-id KEY_ID"),
    Command(
        Operation.GET_KEY_ROTATION_STATUS, ROTATION, "Tell whether a key rotates, and when next.", "--key-id KEY_ID"
    ),
    Command(Operation.ROTATE_KEY_ON_DEMAND, ROTATION, "Rotate a key now.", "--key-id KEY_ID"),
    Command(
        Operation.LIST_KEY_ROTATIONS,
        ROTATION,
        "List a key's rotations, or all its key materials.",
        "--key-id KEY_ID --include-key-material ALL_KEY_MATERIAL",
    ),
    Command(
        Operation.GET_PARAMETERS_FOR_IMPORT,
        IMPORT,
        "Get a wrapping key and an import token, good for 24 hours.",
        "--key-id KEY_ID --wrapping-algorithm RSA_AES_KEY_WRAP_SHA_1 --wrapping-key-spec RSA_4096",
    ),
    Command(
        Operation.IMPORT_KEY_MATERIAL,
        IMPORT,
        "Bring wrapped key material in, or change its expiry.",
        "--key-id KEY_ID --import-token fileb://token.bin --encrypted-key-material fileb://wrapped.bin "
        "--expiration-model KEY_MATERIAL_DOES_NOT_EXPIRE",
    ),
    Command(
        Operation.DELETE_IMPORTED_KEY_MATERIAL,
        IMPORT,
        "Destroy imported key material at once; it can be imported again.",
        "--key-id KEY_ID",
    ),
    Command(
        Operation.SCHEDULE_KEY_DELETION,
        DELETION,
        "Delete a key after a waiting period; what it encrypted is then lost.",
        "--key-id KEY_ID --pending-window-in-days 30",
    ),
    Command(
        Operation.CANCEL_KEY_DELETION,
        DELETION,
        "Keep a key whose deletion is scheduled; it is Disabled.",
        "--key-id KEY_ID",
    ),
    Command(Operation.GET_KEY_LAST_USAGE, DELETION, "Tell when a key was last used.", "--key-id KEY_ID"),
    Command(Operation.CREATE_ALIAS, ALIASES, "Give a key a name.", "--alias-name alias/photos --target-key-id KEY_ID"),
    Command(
        Operation.UPDATE_ALIAS,
        ALIASES,
        "Move a name to another key: manual rotation.",
        "--alias-name alias/photos --target-key-id NEW_KEY_ID",
    ),
    Command(Operation.DELETE_ALIAS, ALIASES, "Take a name away; the key stays.", "--alias-name alias/photos"),
    Command(Operation.LIST_ALIASES, ALIASES, "List the aliases of the region or of a key.", "--key-id KEY_ID"),
    Command(
        Operation.TAG_RESOURCE, TAGS, "Add or replace tags of a key.", "--key-id KEY_ID --tags TagKey=team,TagValue=red"
    ),
    Command(Operation.UNTAG_RESOURCE, TAGS, "Remove tags of a key.", "--key-id KEY_ID --tag-keys team"),
    Command(Operation.LIST_RESOURCE_TAGS, TAGS, "List the tags of a key.", "--key-id KEY_ID"),
    Command(
        Operation.ENCRYPT,
        CRYPTOGRAPHY,
        "Encrypt 1 to 4,096 bytes.",
        "--key-id alias/photos --plaintext fileb://secret.txt --query CiphertextBlob --output text",
    ),
    Command(
        Operation.DECRYPT,
        CRYPTOGRAPHY,
        "Decrypt what encrypt, re-encrypt or generate-data-key gave.",
        "--ciphertext-blob fileb://secret.bin --query Plaintext --output text",
    ),
    Command(
        Operation.RE_ENCRYPT,
        CRYPTOGRAPHY,
        "Move a ciphertext to another key or context; the plaintext stays inside.",
        "--ciphertext-blob fileb://secret.bin --destination-key-id alias/new",
    ),
    Command(
        Operation.GENERATE_DATA_KEY,
        CRYPTOGRAPHY,
        "Make a data key: in the clear, and encrypted.",
        "--key-id alias/photos --key-spec AES_256",
    ),
    Command(
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        CRYPTOGRAPHY,
        "Make a data key, encrypted only.",
        "--key-id alias/photos --key-spec AES_256",
    ),
    Command(
        Operation.GENERATE_RANDOM,
        CRYPTOGRAPHY,
        "Draw random bytes from the token.",
        "--number-of-bytes 32 --query Plaintext --output text",
    ),
    Command(
        Operation.SIGN,
        KEY_PAIRS,
        "Sign 1 to 4,096 bytes, or a digest.",
        "--key-id alias/releases --message fileb://notes.txt --signing-algorithm ECDSA_SHA_256",
    ),
    Command(
        Operation.VERIFY,
        KEY_PAIRS,
        "Verify a signature; a wrong one is an error.",
        "--key-id alias/releases --message fileb://notes.txt --signature fileb://notes.sig "
        "--signing-algorithm ECDSA_SHA_256",
    ),
    Command(
        Operation.GET_PUBLIC_KEY,
        KEY_PAIRS,
        "Tell the public half of a key pair.",
        "--key-id alias/releases --output-format pem",
    ),
    Command(
        Operation.GENERATE_MAC,
        KEY_PAIRS,
        "Make the HMAC of 1 to 4,096 bytes.",
        "--key-id alias/tokens --message fileb://token.json --mac-algorithm HMAC_SHA_256",
    ),
    Command(
        Operation.VERIFY_MAC,
        KEY_PAIRS,
        "Verify an HMAC; a wrong one is an error.",
        "--key-id alias/tokens --message fileb://token.json --mac fileb://token.mac --mac-algorithm HMAC_SHA_256",
    ),
    Command(
        Operation.DERIVE_SHARED_SECRET,
        KEY_PAIRS,
        "Agree on a secret with the holder of a public key.",
        "--key-id alias/talks --key-agreement-algorithm ECDH --public-key fileb://theirs.der",
    ),
    Command(
        Operation.ENCAPSULATE,
        KEY_PAIRS,
        "Not available: no token has ML-KEM yet.",
        "--key-id KEY_ID --encapsulation-algorithm ML_KEM",
    ),
    Command(
        Operation.DECAPSULATE,
        KEY_PAIRS,
        "Not available: no token has ML-KEM yet.",
        "--key-id KEY_ID --shared-secret-ciphertext-blob fileb://secret.bin --encapsulation-algorithm ML_KEM",
    ),
)

HELP: Final = {
    "alias_name": "Alias; the prefix alias/ may be left out.",
    "bypass_policy_lockout_safety_check": "Accept a policy that locks its maker out.",
    "ciphertext_blob": "base64, fileb://FILE, or - for standard input.",
    "custom_key_store_id": "Not available: there are no custom key stores.",
    "customer_master_key_spec": "Older name of --key-spec.",
    "description": "Words for people.",
    "destination_encryption_algorithm": "Algorithm of the new ciphertext.",
    "destination_encryption_context": "Context of the new ciphertext.",
    "destination_key_id": "Key of the new ciphertext.",
    "dry_run": "Only say whether it would succeed.",
    "dry_run_modifiers": "IGNORE_CIPHERTEXT: check the permission only.",
    "encrypted_key_material": "Wrapped key material: base64, or fileb://FILE.",
    "encapsulation_algorithm": "ML_KEM.",
    "encryption_algorithm": "SYMMETRIC_DEFAULT (the default), or RSAES_OAEP_SHA_1 or _256.",
    "encryption_context": "name=value,... or JSON; needed again to decrypt.",
    "expiration_model": "KEY_MATERIAL_DOES_NOT_EXPIRE, or KEY_MATERIAL_EXPIRES (the default).",
    "grant_tokens": "Grant tokens.",
    "import_token": "Import token: base64, or fileb://FILE.",
    "import_type": "NEW_KEY_MATERIAL or EXISTING_KEY_MATERIAL.",
    "include_key_material": "ROTATIONS_ONLY (the default) or ALL_KEY_MATERIAL.",
    "key_agreement_algorithm": "ECDH.",
    "key_id": "Key id, key ARN, alias or alias ARN.",
    "key_material_description": "Words about the key material.",
    "key_material_id": "Which key material; default: the current one.",
    "key_spec": "Of keys: SYMMETRIC_DEFAULT, RSA_2048, ECC_NIST_P256, HMAC_256, ...; of data keys: AES_128 or AES_256.",
    "key_usage": "ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC or KEY_AGREEMENT.",
    "limit": "Entries on one page; all pages if left out.",
    "mac": "HMAC: base64, or fileb://FILE.",
    "mac_algorithm": "HMAC_SHA_224, _256, _384 or _512: that of the key.",
    "marker": "NextMarker of the page before.",
    "message": "base64, fileb://FILE, or - for standard input.",
    "message_type": "RAW (the default): a message. DIGEST: its digest.",
    "multi_region": "Make a multi-Region key: other regions can have replicas.",
    "number_of_bytes": "How many bytes, 1 to 1,024.",
    "origin": "AWS_KMS: generated on the token. EXTERNAL: to be imported.",
    "pending_window_in_days": "Waiting period, 7 to 30 days; default 30.",
    "plaintext": "base64, fileb://FILE, or - for standard input.",
    "policy": "Key policy: JSON, or file://FILE.",
    "primary_region": "Region of the replica.",
    "public_key": "DER SubjectPublicKeyInfo: base64, or fileb://FILE.",
    "recipient": "Not available: Nitro attestations cannot be verified.",
    "replica_region": "Region of the new replica.",
    "resource_owners": "SELF; there is one account.",
    "rotation_period_in_days": "Period, where the operator lets users choose it.",
    "shared_secret_ciphertext_blob": "Encapsulated secret: base64, or fileb://FILE.",
    "signature": "Signature: base64, or fileb://FILE.",
    "signing_algorithm": "Such as RSASSA_PSS_SHA_256, ECDSA_SHA_256 or ED25519_SHA_512.",
    "source_encryption_algorithm": "Algorithm of the ciphertext.",
    "source_encryption_context": "Context of the ciphertext.",
    "source_key_id": "Key of the ciphertext, if it must be a certain one.",
    "tag_keys": "Keys of the tags.",
    "tags": "TagKey=...,TagValue=... for each tag, or JSON.",
    "target_key_id": "Key id or key ARN.",
    "valid_to": "When the material expires: 2027-01-31T12:00:00Z, or seconds since 1970.",
    "wrapping_algorithm": "Such as RSA_AES_KEY_WRAP_SHA_1; token-check shows what the token does.",
    "wrapping_key_spec": "RSA_2048, RSA_3072 or RSA_4096.",
    "xks_key_id": "Not available: there are no custom key stores.",
}

_YES: Final = Annotated[bool, typer.Option("--yes", help="Do not ask at the terminal.")]
_COMMON: Final = {"config": ConfigOption, "region": RegionOption, "output": OutputOption, "query": QueryOption}


def register(app: typer.Typer) -> None:
    """Add a command for every operation of the API."""
    for command in COMMANDS:
        name = option_name(command.operation)
        app.command(
            name,
            help=f"{command.summary}\n\nExample: hsmkms {name} {command.example}",
            rich_help_panel=command.panel,
        )(_function(command.operation))


def option_name(name: str) -> str:
    """``key_id`` or ``CreateKey`` as an option or command is written: ``key-id``, ``create-key``."""
    spaced = "".join(f"-{each.lower()}" if each.isupper() else each for each in name)
    return spaced.replace("_", "-").strip("-")


def list_options() -> frozenset[str]:
    """The options that take several words in a row, as in ``--tag-keys a b``."""
    return frozenset(
        f"--{option_name(name)}"
        for command in COMMANDS
        for name, kind in _members(command.operation).items()
        if get_origin(kind) is list
    )


def _function(operation: Operation) -> Callable[..., None]:
    """The function behind a command, with the signature that typer reads its options from."""
    members = _members(operation)
    required = required_members(OPERATIONS[operation].request)

    def command(
        context: typer.Context,
        config: Any,  # noqa: ANN401 - typer reads the signature below, not this one
        region: Any,  # noqa: ANN401
        output: Any,  # noqa: ANN401
        query: Any,  # noqa: ANN401
        yes: bool = True,  # noqa: FBT001, FBT002 - where there is no question
        output_format: KeyFormat | None = None,
        **given: Any,  # noqa: ANN401
    ) -> None:
        common = Common(config=config, region=region, output=output, query=query).over(outer_options(context))
        members = {name: value for name, value in given.items() if value is not None}
        answer = _answer(operation, common, members, ask=not yes)
        if output_format is not None and answer is not None:
            public_key.write(answer, output_format)
        elif answer is not None:
            common.show(answer)

    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=_annotation(name, kind, required=name in required),
            default=inspect.Parameter.empty if name in required else None,
        )
        for name, kind in members.items()
    ]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None)
        for name, kind in _COMMON.items()
    ]
    if operation in QUESTIONS:
        options.append(inspect.Parameter("yes", inspect.Parameter.KEYWORD_ONLY, annotation=_YES, default=False))
    if operation is Operation.GET_PUBLIC_KEY:
        form = inspect.Parameter("output_format", inspect.Parameter.KEYWORD_ONLY, annotation=FormatOption, default=None)
        options.append(form)
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *options, *common])  # type: ignore[attr-defined]
    return command


def _members(operation: Operation) -> dict[str, Any]:
    """The members of an operation's request with their bare types, in the order of the model."""
    request = OPERATIONS[operation].request
    return {name: _bare(kind) for name, kind in get_type_hints(request).items() if name in request.__struct_fields__}


def _bare(kind: Any) -> Any:  # noqa: ANN401 - types of many kinds
    """``str`` for ``str | None``: every option may be left out or be required, whatever its type says."""
    choices = [each for each in get_args(kind) if each is not type(None)]
    return choices[0] if type(None) in get_args(kind) else kind


def _annotation(name: str, kind: Any, *, required: bool) -> Any:  # noqa: ANN401 - types of many kinds
    option = f"--{option_name(name)}"
    if kind is bool:
        option += f"/--no-{option_name(name)}"
    python_type, metavar = _OPTION_TYPES.get(get_origin(kind) or kind, (str, "JSON"))
    described = typer.Option(option, help=HELP[name], metavar=metavar, show_default=False)
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


def _read(name: str, kind: Any, value: Any) -> Any:  # noqa: ANN401 - values of many kinds
    """The value of an option as the request wants it: by the member's name, by its type, or as typer gave it."""
    option = f"--{option_name(name)}"
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
}
_BY_TYPE: Final[dict[Any, Callable[[str, Any, Any], Any]]] = {
    bytes: lambda option, value, _: values.blob(option, value),
    str: lambda option, value, _: values.text(option, value),
    datetime: lambda option, value, _: values.instant(option, value),
    dict: lambda option, value, _: values.mapping(option, value),
    list: lambda option, value, kind: values.items(option, value, get_args(kind)[0]),
}


def _answer(operation: Operation, common: Common, given: dict[str, Any], *, ask: bool) -> dict[str, Any] | None:
    kinds = _members(operation)
    shape = OPERATIONS[operation]
    # typer gives an empty list for a list option that was not used
    members = {name: _read(name, kinds[name], value) for name, value in given.items() if value != []}
    request = shape.request(**members)
    with common.open() as kms:
        caller = common.caller(kms)
        if ask and at_a_terminal():
            QUESTIONS[operation](kms, request, caller)
        method = getattr(kms, option_name(operation).replace("-", "_"))
        answer = method(request, caller)
        if answer is None:
            return None
        shown: dict[str, Any] = to_wire(answer)
        if "marker" in kinds and "marker" not in members and "limit" not in members:
            _add_pages(shown, lambda marker: to_wire(method(msgspec.structs.replace(request, marker=marker), caller)))
    return shown


def _add_pages(shown: dict[str, Any], next_page: Callable[[str], dict[str, Any]]) -> None:
    """Append all further pages of a list to its first one, as the aws CLI does."""
    while shown.pop("Truncated", False):
        page = next_page(shown.pop("NextMarker"))
        for name, value in page.items():
            if isinstance(value, list):
                shown[name] += value
            else:
                shown[name] = value
