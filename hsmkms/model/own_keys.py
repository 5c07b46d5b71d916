"""The installation's own keys on the token."""

from enum import StrEnum


class KeyPurpose(StrEnum):
    """What a key of the installation itself is for. The words are stored, and stand in the keys' labels."""

    MAC = "mac"
    """Recognises the token; makes the MACs of row seals, grant tokens and import tokens."""
    AUDIT_SEAL = "audit-seal"
    SECRETS = "secrets"
    """Encrypts the secrets of access keys."""
    BACKUP = "backup"
    """Opens the backups that are sealed to the token."""
