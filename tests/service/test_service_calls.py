"""How many calls to the token an operation takes: a network HSM pays 1 to 5 ms for each. Counted by ``pkcs11-spy``."""

from pathlib import Path

import msgspec
import pytest
import spylog
from service_sites import Site, run

from hsmkms.config.settings import AuditSettings

ROUNDS = 3


Counted = dict[str, list[list[str]]]
"""The names of the calls of each operation, done several times in one process."""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, spy_path: Path) -> Counted:
    """Without an audit log, so that there are no notes on the token."""
    return count(tmp_path_factory, spy_path, AuditSettings(durability="off"))


@pytest.fixture(scope="module")
def counted_with_log(tmp_path_factory: pytest.TempPathFactory, spy_path: Path) -> Counted:
    """With an audit log as init sets it up, whose newest seal has a note on the token."""
    return count(tmp_path_factory, spy_path, AuditSettings())


def count(tmp_path_factory: pytest.TempPathFactory, spy_path: Path, audit: AuditSettings) -> Counted:
    """Count on a fresh installation."""
    site = Site.make(tmp_path_factory.mktemp("counted") / "site")
    log = site.folder / "spy.log"
    token = site.settings.token
    environment = token.environment | {"PKCS11SPY": str(token.module), "PKCS11SPY_OUTPUT": str(log)}
    watched = msgspec.structs.replace(token, module=spy_path, environment=environment)
    site.varied("counted.toml", token=watched, audit=audit)
    (marks,) = run("count_calls", site.folder / "counted.toml", str(log), str(ROUNDS))
    names = [each.name for each in spylog.read(log)]
    return {operation: [names[begin:end] for begin, end in each] for operation, each in marks.items()}


def test_encrypt(counted: Counted) -> None:
    """A warm Encrypt is two calls; the first one also fetches IVs, 64 at once."""
    first, *warm = counted["encrypt"]
    assert first == ["C_GenerateRandom", "C_EncryptInit", "C_Encrypt"]
    assert warm == [["C_EncryptInit", "C_Encrypt"]] * (ROUNDS - 1)


def test_decrypt(counted: Counted) -> None:
    """Decrypt is two calls."""
    assert counted["decrypt"] == [["C_DecryptInit", "C_Decrypt"]] * ROUNDS


def test_sign(counted: Counted) -> None:
    """Sign is two calls."""
    assert counted["sign"][-1] == ["C_SignInit", "C_Sign"]


def test_create_key(counted: Counted) -> None:
    """CreateKey is six calls without notes of the audit log: the third makes the key, and the last reads it back.

    The read-back follows the proof of the token's identity. The first two show that the login is valid, before the
    intent and before the key; the second also that the token is no older copy of itself, as the HMAC of identity does
    again.
    """
    assert counted["create"][-1] == [
        "C_GetSessionInfo",
        "C_GetAttributeValue",
        "C_GenerateKey",
        "C_SignInit",
        "C_Sign",
        "C_GetAttributeValue",
    ]


def test_create_key_with_a_log(counted_with_log: Counted) -> None:
    """With an audit log CreateKey is eight calls: the note of the newest seal is read before and after, in one each."""
    assert (
        counted_with_log["create"]
        == [
            [
                "C_GetSessionInfo",
                "C_GetAttributeValue",
                "C_GetAttributeValue",
                "C_GenerateKey",
                "C_SignInit",
                "C_Sign",
                "C_GetAttributeValue",
                "C_GetAttributeValue",
            ]
        ]
        * ROUNDS
    )


def test_parameters_for_import(counted: Counted) -> None:
    """The first GetParametersForImport tries what the token can do in at most 118 calls, and the next ones need 11."""
    first, *others = counted["parameters"]
    assert len(first) <= 118
    assert max(map(len, others)) <= 11
