"""Commands that import and wrap key material: import-key, wrap-key-material."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer
from msgspec import Struct

from hsmkms.cli import moments
from hsmkms.cli.api import values
from hsmkms.cli.api.table import IMPORT
from hsmkms.cli.files import material_files
from hsmkms.cli.files.material_files import SYMMETRIC_BYTES
from hsmkms.cli.options import Common, with_common
from hsmkms.errors import HsmKmsError, UnsupportedOperationException
from hsmkms.model.enums import ExpirationModel, KeySpec, Origin, WrappingKeySpec
from hsmkms.model.importing import GetParametersForImportRequest, ImportKeyMaterialRequest
from hsmkms.model.keys import DescribeKeyRequest, KeyMetadata
from hsmkms.model.shapes import KeyId, KeyMaterialId, Shape, WrappingAlgorithmWord
from hsmkms.model.wire import to_wire

if TYPE_CHECKING:
    from hsmkms.kms import Kms
    from hsmkms.model.caller import Caller

LENGTHS: Final = {
    KeySpec.SYMMETRIC_DEFAULT: SYMMETRIC_BYTES,
    KeySpec.HMAC_224: 28,
    KeySpec.HMAC_256: 32,
    KeySpec.HMAC_384: 48,
    KeySpec.HMAC_512: 64,
}
"""The length of key material in bytes, by key spec. For all other specs it is a private key."""

STRONGEST: Final = WrappingKeySpec.RSA_4096
"""The default: material is only as safe as its wrapping key, and a second more does not matter for a rare operation."""

FileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Key material, binary, or a private key, PEM or DER; - for standard input.",
        show_default=False,
    ),
]


class Imported(Shape, frozen=True, kw_only=True):
    """The answer of ImportKeyMaterial, with the wrapping algorithm and the expiry of the material."""

    key_id: KeyId
    key_material_id: KeyMaterialId | None = None
    wrapping_algorithm: WrappingAlgorithmWord
    valid_to: datetime | None = None


class ImportOptions(Struct, frozen=True):
    """The options of an import; ``valid_to`` is None for material that does not expire."""

    algorithm: str | None
    spec: str
    valid_to: datetime | None
    description: str | None
    import_type: str | None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("import-key", rich_help_panel=IMPORT)(import_key)
    app.command("wrap-key-material", rich_help_panel=IMPORT)(wrap_key_material)


@with_common("config", "region", "output", "query")
def import_key(
    common: Common,
    file: FileArgument,
    *,
    key_id: Annotated[str, typer.Option("--key-id", help=values.KEY_HELP)],
    valid_to: Annotated[
        str | None,
        typer.Option("--valid-to", metavar="WHEN", help="When it expires, UTC: 180d from now, 2027-01-31T12:00:00Z."),
    ] = None,
    no_expiry: Annotated[bool, typer.Option("--no-expiry", help="It does not expire.")] = False,
    wrapping_algorithm: Annotated[
        str | None, typer.Option("--wrapping-algorithm", help="Default: the strongest that the token supports.")
    ] = None,
    wrapping_key_spec: Annotated[
        str, typer.Option("--wrapping-key-spec", help="RSA_2048, RSA_3072 or RSA_4096.")
    ] = STRONGEST.value,
    description: Annotated[
        str | None, typer.Option("--description", help="Free text about the key material.", show_default=False)
    ] = None,
    import_type: Annotated[
        str | None, typer.Option("--import-type", help="NEW_KEY_MATERIAL or EXISTING_KEY_MATERIAL.")
    ] = None,
) -> None:
    """Import key material into a key created with --origin EXTERNAL: parameters, wrapping and upload in one step.

    Symmetric and HMAC keys take bytes, RSA and ECC keys a private key. Say when it expires, or that it does not.
    Keep a copy of the material: it cannot be exported again.

    Example: hsmkms import-key key.bin --key-id photos --no-expiry
    """
    if no_expiry == (valid_to is not None):
        raise typer.BadParameter("say either --valid-to WHEN, when the key material expires, or --no-expiry")
    expiry = moments.expiry("--valid-to", valid_to, datetime.now(UTC)) if valid_to is not None else None
    options = ImportOptions(wrapping_algorithm, wrapping_key_spec, expiry, description, import_type)
    with material_files.material(file) as material, common.open() as kms:
        caller = common.caller(kms)
        metadata = kms.describe_key(DescribeKeyRequest(key_id=values.key_name(key_id)), caller).key_metadata
        with _checked(metadata, file, material) as checked:
            answer = _import(kms, caller, metadata, checked, options)
    common.show(to_wire(answer))


def wrap_key_material(
    file: FileArgument,
    *,
    public_key: Annotated[
        str, typer.Option("--public-key", metavar="PUB", help="File with the PublicKey: DER, PEM or base64.")
    ],
    wrapping_algorithm: Annotated[
        str, typer.Option("--wrapping-algorithm", help="The one given to get-parameters-for-import.")
    ],
    out: Annotated[
        str | None, typer.Option("--out", metavar="WRAPPED", help="New file; default: base64 on standard output.")
    ] = None,
    any_length: Annotated[
        bool, typer.Option("--any-length", help="Accept other lengths than 32 bytes, for keys that are not symmetric.")
    ] = False,
) -> None:
    """Wrap key material for import-key-material on any machine: it needs no configuration, token or database.

    A private key in PEM is wrapped as PKCS #8 in DER. --public-key is the PublicKey of get-parameters-for-import. Make
    sure that it was not changed on its way.

    Example: hsmkms wrap-key-material key.bin --public-key public.der --wrapping-algorithm RSAES_OAEP_SHA_1 --out w.bin
    """
    from hsmkms import key_wrapping  # noqa: PLC0415 - help must not pay for the cryptography
    from hsmkms.cli.files import private_keys  # noqa: PLC0415 - see above

    public = key_wrapping.read_public_key(material_files.read("--public-key", public_key))
    with material_files.material(file) as material:
        if private_keys.is_pem(material):
            with private_keys.pkcs8(file, material) as private:
                wrapped = key_wrapping.wrap(public, wrapping_algorithm, private)
        else:
            if not any_length:
                material_files.check_length(
                    file, material, SYMMETRIC_BYTES, "If it is no symmetric key, say --any-length."
                )
            material_files.warn_of_text(file, material)
            wrapped = key_wrapping.wrap(public, wrapping_algorithm, material)
    if out is None:
        print(base64.b64encode(wrapped).decode())
    else:
        material_files.write_private("--out", out, wrapped)


@contextmanager
def _checked(key: KeyMetadata, file: str, material: bytearray) -> Iterator[bytearray]:
    """Yield the bytes to wrap. Refuses what the import would refuse, before anything is created on the token."""
    if key.origin != Origin.EXTERNAL:
        raise UnsupportedOperationException(
            f"{key.arn} has the origin {key.origin}, so nothing can be imported into it: create a key with "
            "`hsmkms create-key --origin EXTERNAL`."
        )
    length = LENGTHS.get(KeySpec(key.key_spec))
    if length is None:
        from hsmkms.cli.files import private_keys  # noqa: PLC0415 - see wrap_key_material

        with private_keys.pkcs8(file, material) as private:
            yield private
        return
    material_files.check_length(file, material, length)
    material_files.warn_of_text(file, material)
    yield material


def _import(
    kms: "Kms", caller: "Caller | None", key: KeyMetadata, material: bytearray, options: ImportOptions
) -> Imported:
    """Call GetParametersForImport, wrap, call ImportKeyMaterial. The wrapping key is discarded even after a failure."""
    from hsmkms import key_wrapping  # noqa: PLC0415 - see wrap_key_material

    arn, algorithm = key.arn, options.algorithm or _strongest(kms, KeySpec(key.key_spec))
    parameters = kms.get_parameters_for_import(
        GetParametersForImportRequest(key_id=arn, wrapping_algorithm=algorithm, wrapping_key_spec=options.spec), caller
    )
    try:
        public = key_wrapping.read_public_key(parameters.public_key)
        wrapped = key_wrapping.wrap(public, algorithm, material)
        answer = kms.import_key_material(_request(arn, parameters.import_token, wrapped, options), caller)
    finally:
        # If this fails, the wrapping key expires after 24 hours; an error of the import must not be replaced.
        with suppress(HsmKmsError):
            kms.operator.discard_wrapping_key(parameters.import_token)
    return Imported(
        key_id=answer.key_id,
        key_material_id=answer.key_material_id,
        wrapping_algorithm=algorithm,
        valid_to=options.valid_to,
    )


def _request(arn: str, import_token: bytes, wrapped: bytes, options: ImportOptions) -> ImportKeyMaterialRequest:
    expires = options.valid_to is not None
    return ImportKeyMaterialRequest(
        key_id=arn,
        import_token=import_token,
        encrypted_key_material=wrapped,
        valid_to=options.valid_to,
        expiration_model=(
            ExpirationModel.KEY_MATERIAL_EXPIRES if expires else ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE
        ),
        import_type=options.import_type,
        key_material_description=options.description,
    )


def _strongest(kms: "Kms", spec: KeySpec) -> str:
    """Return the strongest wrapping algorithm of the token; for private keys one without OAEP's length limit."""
    possible = kms.operator.import_algorithms()
    if spec not in LENGTHS:
        possible = [each for each in possible if "KEY_WRAP" in each] or possible
    if not possible and (refusal := kms.operator.import_refusal()):
        raise UnsupportedOperationException(f"No key material can be imported into this token: {refusal}.")
    if not possible:
        raise UnsupportedOperationException(
            "This token cannot unwrap key material by itself: `hsmkms token-check` shows what it can do."
        )
    return possible[0]
