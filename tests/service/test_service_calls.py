"""How many calls to the token an operation takes: a network HSM pays 1 to 5 ms for each. Counted by ``pkcs11-spy``."""

from pathlib import Path

import msgspec
import pytest
import shims
import spylog
from service_sites import Site, run
from shims import NO_GCM

from hsmkms.config.settings import AuditSettings, TokenSettings

ROUNDS = 3
NO_LOG = AuditSettings(durability="off")

Counted = dict[str, list[list[str]]]
"""The names of the calls of each operation, for each of its rounds."""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, spy_path: Path) -> Counted:
    """The calls without an audit log, so that there are no notes on the token."""
    site = Site.make(tmp_path_factory.mktemp("counted") / "site")
    return count(site, spied(site, spy_path), NO_LOG)


@pytest.fixture(scope="module")
def counted_with_log(tmp_path_factory: pytest.TempPathFactory, spy_path: Path) -> Counted:
    """The calls with an audit log as init sets it up, whose newest seal has a note on the token."""
    site = Site.make(tmp_path_factory.mktemp("counted") / "site")
    return count(site, spied(site, spy_path), AuditSettings())


@pytest.fixture(scope="module")
def counted_without_gcm(tmp_path_factory: pytest.TempPathFactory, spy_path: Path, shim_path: Path) -> Counted:
    """The same on a token without AES-GCM."""
    site = Site.make(tmp_path_factory.mktemp("counted") / "site")
    control, watched = site.folder / "shim.control", spied(site, spy_path)
    shims.order(control, *NO_GCM.orders)
    environment = watched.environment | shims.variables(spy_path, control)
    return count(site, msgspec.structs.replace(watched, module=shim_path, environment=environment), NO_LOG)


def spied(site: Site, spy_path: Path) -> TokenSettings:
    """The token of an installation with the spy in front of it."""
    token = site.settings.token
    environment = token.environment | {"PKCS11SPY": str(token.module), "PKCS11SPY_OUTPUT": str(site.folder / "spy.log")}
    return msgspec.structs.replace(token, module=spy_path, environment=environment)


def count(site: Site, token: TokenSettings, audit: AuditSettings) -> Counted:
    """Do each operation several times in a process whose calls to the token are watched."""
    log = site.folder / "spy.log"
    site.varied("counted.toml", token=token, audit=audit)
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


# -- on a token without AES-GCM -------------------------------------------------------------------------------------


def test_encrypt_without_gcm(counted_without_gcm: Counted) -> None:
    """A warm Encrypt is four calls: AES-CBC, then HMAC; the first one also fetches IVs.

    The handles of both keys are known since their creation.
    """
    first, *warm = counted_without_gcm["encrypt"]
    calls = ["C_EncryptInit", "C_Encrypt", "C_SignInit", "C_Sign"]
    assert first == ["C_GenerateRandom", *calls]
    assert warm == [calls] * (ROUNDS - 1)


def test_decrypt_without_gcm(counted_without_gcm: Counted) -> None:
    """Decrypt is four calls: it computes the HMAC, and only then decrypts."""
    assert counted_without_gcm["decrypt"] == [["C_SignInit", "C_Sign", "C_DecryptInit", "C_Decrypt"]] * ROUNDS


def test_create_key_without_gcm(counted_without_gcm: Counted) -> None:
    """CreateKey is eleven calls: a search for what an interrupted creation left, two keys, and two read-backs."""
    assert counted_without_gcm["create"][-1] == [
        "C_GetSessionInfo",
        "C_GetAttributeValue",
        *("C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal"),
        *("C_GenerateKey", "C_GenerateKey"),
        *("C_SignInit", "C_Sign"),
        *("C_GetAttributeValue", "C_GetAttributeValue"),
    ]
