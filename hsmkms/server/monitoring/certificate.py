"""Read from when to when a file of certificates is valid."""

from datetime import datetime
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates
from msgspec import Struct

from hsmkms.errors import ConfigurationError


class Validity(Struct, frozen=True):
    """When all certificates of a file are valid, and how many there are."""

    begin: datetime
    end: datetime
    count: int


def validity(file: Path) -> Validity:
    """Return when all certificates in a file (PEM) are valid. ConfigurationError if it cannot be read."""
    try:
        chain = load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"serve.certificate {file} cannot be read as PEM: put the right file there") from exc
    return Validity(
        begin=max(each.not_valid_before_utc for each in chain),
        end=min(each.not_valid_after_utc for each in chain),
        count=len(chain),
    )
