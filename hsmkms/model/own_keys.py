"""The installation's own keys on the token."""

from enum import StrEnum


class KeyPurpose(StrEnum):
    """The purposes of the installation's own keys. The values are stored, and are part of the keys' labels."""

    MAC = "mac"
    """Recognises the token; makes the MACs of row seals, grant tokens and import tokens."""
    AUDIT_SEAL = "audit-seal"
    SECRETS = "secrets"
    """Encrypts the secrets of access keys."""
    BACKUP = "backup"
    """Opens the backups that are sealed to the token."""
    REPORT = "report"
    """Signs reports for auditors: a key pair, unlike the others."""
