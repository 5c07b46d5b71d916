"""Commands for auditors: report, verify-report, report-public-key."""

import hashlib
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hsmkms import atomic_write
from hsmkms.cli.commands.audit import PANEL, ArchiveOption, progress
from hsmkms.cli.options import Common, note, with_common
from hsmkms.cli.output import OutputFormat
from hsmkms.cli.reports.document import ReportFormat, document, statement_of
from hsmkms.errors import ConfigurationError, KMSInvalidSignatureException, NotFoundException, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hsmkms.atomic_write import PutInPlace
    from hsmkms.kms import Kms
    from hsmkms.service.operator.reports import Proof, ReportKey

SIGNATURE_ENDING: Final = ".sig"
_LARGEST: Final = 512 * 1024 * 1024
_LARGEST_SIGNATURE: Final = 4096
"""Bytes of a report, and of a signature, that are read at most."""

_Members = dict[str, str | None]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("report", rich_help_panel=PANEL)(report)
    app.command("verify-report", rich_help_panel=PANEL)(verify_report)
    app.command("report-public-key", rich_help_panel=PANEL)(report_public_key)


@with_common("config", "region", "query")
def report(
    common: Common,
    *,
    form: Annotated[ReportFormat, typer.Option("--format", help="Form of the report.")] = ReportFormat.HTML,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="New file; default: hsmkms-report-TIME.FORMAT in this folder."),
    ] = None,
    archives: ArchiveOption = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Do not sign it: for a token that cannot sign.")] = False,
) -> None:
    """Write one file for an auditor, and its signature by a key on the token beside it (FILE.sig).

    It shows all keys with their material, ages and rotations, the attributes that the token reports, who may do what,
    users and groups, the uses of the last 90 days, and the state of the audit log, which is verified first. The file
    needs nothing else: no script, no image from elsewhere. Without --region it has the keys of all regions.

    `hsmkms verify-report` shows later whether it was changed.

    Example: hsmkms report --format html --output report.html
    """
    from hsmkms.cli.reports.forms import render  # noqa: PLC0415 - help must not pay for it

    file = output or Path(f"hsmkms-report-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{form.value}")
    beside = _signature_of(file)
    _check_new(file, *([] if unsigned else [beside]))
    with common.open() as kms:
        reports = kms.operator.reports
        key = None if unsigned else reports.key()
        with progress() as advance:
            facts = reports.collect(common.region, archives or (), advance)
        statement = statement_of(facts, key)
        data = render(form, document(facts, statement))
        with _draft(file, data) as put_report:
            if key is None:
                reports.record_unsigned(data)
                _put_in_place({file: put_report})
            else:
                with _draft(beside, reports.sign(data, key)) as put_signature:
                    _put_in_place({file: put_report, beside: put_signature})
    answer = {"File": str(file), "Sha256": hashlib.sha256(data).hexdigest(), "Keys": len(facts.keys)}
    if key is not None:
        answer |= {"Signature": str(beside), "SignedBy": key.fingerprint, "KeyVersion": key.version}
    common.show({"Report": answer})


@with_common("config", "output", "query")
def verify_report(
    common: Common,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The report.")],
    *,
    signature: Annotated[
        Path | None, typer.Option("--signature", metavar="FILE", help="Its signature; default: beside it, FILE.sig.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", metavar="FILE", help="Verify by this key (PEM); needs no installation and no token."
        ),
    ] = None,
    archives: ArchiveOption = None,
) -> None:
    """Show whether a report is as it was made, by which installation, and when. Status 1 if that is not proven.

    Without --public-key it is proven by a key for reports on a token of this installation or, if the signature is
    missing or its key is gone, by the record of it in the audit log, which is then verified.

    Example: hsmkms verify-report report.html
    """
    from hsmkms.cli.reports.forms import read_statement  # noqa: PLC0415 - help must not pay for it

    data = _read(file)
    signed = _signature(signature or _signature_of(file), required=signature is not None or public_key is not None)
    if public_key is not None:
        by: str | None = _verify_by_key(data, signed or b"", public_key)
        proven_by, more = "the given public key", _Members()
    else:
        with common.open() as kms, progress() as advance:
            proof = kms.operator.reports.verify(data, signed, archives or (), advance)
        by, (proven_by, more) = proof.key.fingerprint if proof.key else None, _shown(proof)
    statement = read_statement(data)
    if by is not None and statement.signed_by != by:
        raise KMSInvalidSignatureException(
            f"The report names the key {statement.signed_by or 'none'} as its signer, and {by} signed it."
        )
    shown = {"File": str(file), "Sha256": hashlib.sha256(data).hexdigest(), "ProvenBy": proven_by, **more}
    members = ("installation", "account", "made_at", "signed_by", "key_version", "regions", "left_out")
    made = {name: getattr(statement, name) for name in members}
    named = {"".join(map(str.capitalize, name.split("_"))): value for name, value in made.items()}
    common.show({"Report": {**shown, **named}})


@with_common("config")
def report_public_key(
    common: Common,
    *,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="HEX", help="Another key than the newest, by its fingerprint."),
    ] = None,
) -> None:
    """Print the public key that verifies reports (PEM); its fingerprint goes to standard error.

    The fingerprint is SHA-256 of the key in DER, as `openssl pkey -pubin -in KEY -outform DER | sha256sum` shows it.

    Example: hsmkms report-public-key > report-key.pem
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - of this alone

    from hsmkms.service.keys.report_keys import read_public_key  # noqa: PLC0415 - help must not pay for it

    with common.open() as kms:
        key = _key_of(kms, fingerprint)
    public = read_public_key(key.public_key)
    sys.stdout.write(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
    note([f"key for reports, version {key.version}, fingerprint {key.fingerprint}"])


def _key_of(kms: "Kms", fingerprint: str | None) -> "ReportKey":
    reports = kms.operator.reports
    if fingerprint is None:
        return reports.key()
    known = reports.available_keys()
    found = next((each for each in known if each.fingerprint == fingerprint.lower()), None)
    if found is None:
        names = ", ".join(each.fingerprint for each in known) or "none"
        raise NotFoundException(f"No key for reports on the tokens has the fingerprint {fingerprint}; there: {names}.")
    return found


def _shown(proof: "Proof") -> tuple[str, _Members]:
    if proof.key is not None:
        return "a key on the token", {}
    more: _Members = {"EventId": proof.event_id, "EventTime": proof.event_time}
    return "the audit log", more | ({"Note": proof.note} if proof.note is not None else {})


def _verify_by_key(data: bytes, signature: bytes, file: Path) -> str:
    """Verify a signature by a key in a file; return the key's fingerprint."""
    from hsmkms.service.keys import report_keys  # noqa: PLC0415 - help must not pay for it

    key = report_keys.read_public_key(_read(file), str(file))
    name = report_keys.fingerprint_of(key)
    if not report_keys.verifies(key, data, signature):
        raise KMSInvalidSignatureException(
            f"The report is not signed by the key {name}: it was changed, or another key signed it, or the signature "
            "is that of another report."
        )
    return name


# -- files ----------------------------------------------------------------------------------------------------------


def _signature_of(file: Path) -> Path:
    return file.with_name(file.name + SIGNATURE_ENDING)


def _check_new(*files: Path) -> None:
    """Raise, before any work is done, if new files cannot be written there."""
    for each in files:
        if str(each) in [*OutputFormat, *ReportFormat]:
            raise ConfigurationError(f"--output names a file here, not a format: use --format {each}, or name a file")
        if each.exists():
            raise StoreError(f"{each} is there already: name another file for --output")
        if not each.absolute().parent.is_dir():
            raise StoreError(f"{each} cannot be written: there is no folder {each.absolute().parent}")


@contextmanager
def _draft(file: Path, data: bytes) -> "Iterator[PutInPlace]":
    """Write a file under a temporary name; the function that is yielded renames it."""
    with ExitStack() as written:
        try:
            put_in_place = written.enter_context(atomic_write.draft(file, data))
        except OSError as exc:
            raise StoreError(f"{file} cannot be written: {exc.strerror}") from exc
        yield put_in_place


def _put_in_place(drafts: "Mapping[Path, PutInPlace]") -> None:
    try:
        atomic_write.create_together(drafts)
    except OSError as exc:
        names = " and ".join(map(str, drafts))
        raise StoreError(f"{names} cannot be written: {exc.strerror}") from exc


def _signature(file: Path, *, required: bool) -> bytes | None:
    if not required and not file.exists():
        return None
    data = _read(file)
    if len(data) > _LARGEST_SIGNATURE:
        raise StoreError(f"{file} is too large to be a signature: name the right file with --signature")
    return data


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except OSError as exc:
        raise StoreError(f"{file} cannot be read: {exc.strerror}") from exc
    if len(data) > _LARGEST:
        raise StoreError(f"{file} is larger than any report: name the right file")
    return data
