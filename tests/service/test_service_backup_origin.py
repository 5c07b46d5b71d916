"""Who made a backup: what proves it, and that nothing of one that is not proven is opened, loaded or run."""

import json
import os
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from backups import (
    PROOFS,
    Private,
    back_up,
    contents_of,
    in_our_envelope,
    keys_of,
    old_backup,
    old_token_backup,
    open_by_token,
    pem_of,
    sealed,
    with_manifest,
)
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from lifecycle import new_imported_key
from service_sites import NewSite, Site, new_key, seal, unseal

from hsmkms.config import settings as config
from hsmkms.config.settings import Settings
from hsmkms.errors import BindingError, ConfigurationError, StoreError
from hsmkms.model.asymmetric import GenerateMacRequest
from hsmkms.model.enums import KeySpec, KeyUsage, MacAlgorithm
from hsmkms.service.backup import origin as backup_origin
from hsmkms.service.backup import signature as backup_signature
from hsmkms.service.backup.restore import Order, Restored
from hsmkms.service.backup.signature import SigningKey
from hsmkms.service.backup.unsealing import Unsealed
from hsmkms.wiring import restore as restore_wiring

pytestmark = pytest.mark.sqlite_alone("a backup is of files so far")

OURS = ("meta.db", "log.db", "audit")
UNPROVEN = "Nothing was restored: anyone who can write"


@pytest.fixture(scope="module")
def private() -> X25519PrivateKey:
    """The operator's key, whose public half is public."""
    return X25519PrivateKey.generate()


@pytest.fixture(scope="module")
def signing_key() -> Ed25519PrivateKey:
    """The operator's signing key."""
    return Ed25519PrivateKey.generate()


def lose(site: Site) -> None:
    """The databases and the audit log are put aside, for a test to read."""
    place = Path(f"{site.folder}-lost-{len(list(site.folder.parent.iterdir()))}")
    place.mkdir()
    for each in (*site.folder.glob("*.db*"), site.folder / "audit"):
        if each.exists():
            each.rename(place / each.name)


def restore(site: Site, file: Path, private: Private | None = None, **wishes: object) -> Restored:
    """Restore a backup with the operator's own configuration."""
    keys = keys_of(private) if private is not None else None
    return restore_wiring.restore(site.settings, file, Order(keys=keys, accept_rollback=True, **wishes))  # type: ignore[arg-type]


def nothing_is_left(site: Site) -> bool:
    """True if no file of an installation is in the data folder."""
    return not any(
        path.name.startswith((*OURS, ".restore")) for path in site.folder.iterdir() if path.suffix != ".lock"
    )


# -- the proofs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_token", [True, False])
def test_the_token_proves_it(site: Site, private: X25519PrivateKey, *, to_token: bool) -> None:
    """Whatever it is sealed to, the token proves a backup; answer and audit log say so, the log with the digest."""
    file = back_up(site, None if to_token else private)
    lose(site)
    assert restore(site, file, None if to_token else private).proof == "token"
    with site.open() as kms:
        records = [
            json.loads(line)["record"]
            for path in sorted(kms.operator.audit.folder.glob("lane-*.jsonl"))
            for line in path.read_text().splitlines()
        ]
    (record,) = [json.dumps(each) for each in records if each["eventName"] == "RestoreBackup"]
    assert '"proof": "token"' in record
    assert sha256(file.read_bytes()).hexdigest() in record


@pytest.mark.parametrize(
    "make",
    [
        Ed25519PrivateKey.generate,
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP521R1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
)
def test_a_signature_proves_it(site: Site, private: X25519PrivateKey, make: Callable[[], SigningKey]) -> None:
    """The key that signed it is named, beside the token; another key, or none where one is asked for, is refused."""
    key = make()
    file, unsigned = back_up(site, private, signing_key=key), back_up(site, private, "unsigned")
    lose(site)
    with pytest.raises(StoreError, match="is not signed by the key"):
        restore(site, file, private, signed_by=make().public_key())
    with pytest.raises(StoreError, match="the backup is not signed, and --signed-by asks"):
        restore(site, unsigned, private, signed_by=key.public_key())
    assert nothing_is_left(site)
    name = backup_signature.fingerprint(key.public_key())
    assert restore(site, file, private, signed_by=key.public_key()).proof == f"token, signature {name}"


def test_signing_keys_that_are_none() -> None:
    """Weak keys, keys of other kinds and encrypted ones are refused, with nothing of them in the error."""
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    for key in (weak, X25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(ConfigurationError, match=r"key\.pem holds no signing key") as caught:
            backup_signature.read_signing_key("key.pem", pem)
        assert caught.value.__context__ is None
        with pytest.raises(ConfigurationError, match=r"key\.pub holds no public half"):
            backup_signature.read_verifying_key("key.pub", pem_of(key))  # type: ignore[arg-type]


# -- forgeries ------------------------------------------------------------------------------------------------------


def forged(contents: dict[str, bytes], other: dict[str, bytes]) -> dict[str, tuple[dict[str, bytes], str]]:
    """What an attacker with the public key can make of two backups of known content, and how it is refused."""
    without = {name: data for name, data in contents.items() if name not in PROOFS}
    evil = contents | {"hsmkms.toml": b"[evil]"}
    longer = {"inventory.json": b"[]", **{name: data for name, data in contents.items() if name != "inventory.json"}}
    renamed = msgspec.json.decode(contents["manifest.json"]) | {"installation": "0" * 32}
    mac = msgspec.json.decode(contents["manifest.mac"])
    return {
        "content changed": (evil, "does not hold what its manifest lists"),
        "content of another": (
            without | {name: other[name] for name in PROOFS},
            "does not hold what its manifest lists",
        ),
        "a file more": (
            {"audit/lane-0009.00000001.jsonl": b"{}\n", **contents},
            "does not hold what its manifest lists",
        ),
        "a file less": (
            {name: data for name, data in contents.items() if not name.startswith("audit/seals")},
            "does not hold what its manifest lists",
        ),
        "another order": (dict(sorted(contents.items(), reverse=True)), "does not hold what its manifest lists"),
        "inventory changed": (longer, "does not hold what its manifest lists"),
        "no manifest": (without, "the backup has no manifest"),
        "proofs alone": (without | {"manifest.mac": contents["manifest.mac"]}, "proofs but no manifest"),
        "manifest of nothing": (contents | {"manifest.json": b"{}"}, "manifest of the backup cannot be read"),
        "manifest of the future": (
            contents | {"manifest.json": contents["manifest.json"].replace(b"backup manifest 1", b"backup manifest 2")},
            "which this version does not know",
        ),
        "proof of another": (
            with_manifest(evil) | {"manifest.mac": other["manifest.mac"], "manifest.sig": other["manifest.sig"]},
            f"the proof in the backup was not made by this token.*{UNPROVEN}",
        ),
        "manifest made anew": (with_manifest(evil), f"was not made by this token.*{UNPROVEN}"),
        "no proof": (with_manifest(without | {"manifest.json": contents["manifest.json"]}), f"no proof.*{UNPROVEN}"),
        "another installation": (
            contents | {"manifest.json": msgspec.json.encode(renamed)},
            f"by a key that proves nothing.*{UNPROVEN}",
        ),
        "proof by a label of another kind": (
            contents | {"manifest.mac": msgspec.json.encode(mac | {"label": "hsmkms/12345678/0/1"})},
            f"by a key that proves nothing.*{UNPROVEN}",
        ),
        "proof by a key that is not there": (
            contents | {"manifest.mac": msgspec.json.encode(mac | {"key": "00" * 16})},
            f"does not hold the key that proves.*{UNPROVEN}",
        ),
        "no database": (with_manifest(contents | {"meta.db": b"garbage"}), f"was not made by this token.*{UNPROVEN}"),
    }


def test_forgeries(site: Site, private: X25519PrivateKey, signing_key: Ed25519PrivateKey) -> None:
    """An attacker with the public key and older backups makes none that is restored; no forged database is opened."""
    file = back_up(site, private, signing_key=signing_key)
    with site.open() as kms:
        new_key(kms)
    other = back_up(site, private, "other", signing_key=signing_key)
    contents, known = contents_of(file, private), contents_of(other, private)
    lose(site)
    for name, (made, words) in forged(contents, known).items():
        bad = sealed(site.folder / "bad", made, private)
        with pytest.raises((StoreError, BindingError), match=words):
            restore(site, bad, private)
        if name.startswith("proof by"):
            continue  # the content is the operator's, and so is the signature
        with pytest.raises((StoreError, BindingError)):
            restore(site, bad, private, signed_by=signing_key.public_key())
        assert nothing_is_left(site), name
    restore(site, sealed(site.folder / "again", contents, private), private)  # the very content may be carried on


def test_forgeries_that_are_damage(site: Site, private: X25519PrivateKey) -> None:
    """A backup that is not whole is refused also where no proof is asked for."""
    file = back_up(site, private)
    contents = contents_of(file, private)
    lose(site)
    bad = sealed(site.folder / "bad", contents | {"hsmkms.toml": b"[evil]"}, private)
    with pytest.raises(StoreError, match="does not hold what its manifest lists"):
        restore(site, bad, private, unproven=True)
    (site.folder / "cut").write_bytes(file.read_bytes()[:-100_000])
    with pytest.raises(StoreError, match="was changed or is not complete"):
        restore(site, site.folder / "cut", private, unproven=True)
    assert nothing_is_left(site)


def test_hmac_by_a_users_key(site: Site, private: X25519PrivateKey) -> None:
    """A user's HMAC key on the same token, by which he can have anything authenticated, proves nothing."""
    with site.open() as kms:
        user_key = new_key(kms, key_spec=KeySpec.HMAC_256, key_usage=KeyUsage.GENERATE_VERIFY_MAC).key_id
        (backing,) = kms.operator.attest(user_key)
    contents = with_manifest(contents_of(back_up(site, private), private) | {"hsmkms.toml": b"[evil]"})
    message = backup_origin._DOMAIN + sha256(contents["manifest.json"]).digest()
    with site.open() as kms:
        mac = kms.generate_mac(
            GenerateMacRequest(key_id=user_key, message=message, mac_algorithm=MacAlgorithm.HMAC_SHA_256)
        ).mac
    manifest = msgspec.json.decode(contents["manifest.mac"])
    lose(site)
    assert mac is not None
    contents["manifest.mac"] = msgspec.json.encode(manifest | {"key": backing.cka_id, "mac": mac.hex()})
    with pytest.raises(StoreError, match=UNPROVEN):
        restore(site, sealed(site.folder / "bad", contents, private), private)


def test_unproven_word(site: Site, private: X25519PrivateKey) -> None:
    """The operator's word lets an unproven backup through, and the answer says that nothing proves it."""
    with site.open() as kms:
        ciphertext = seal(kms, new_key(kms).key_id)
    contents = contents_of(back_up(site, private), private)
    lose(site)
    file = sealed(
        site.folder / "bare", {name: data for name, data in contents.items() if name != "manifest.mac"}, private
    )
    with pytest.raises(StoreError, match=UNPROVEN):
        restore(site, file, private)
    assert restore(site, file, private, unproven=True).proof == "none"
    with site.open() as kms:
        assert unseal(kms, ciphertext) == b"secret"


# -- backups of older versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [X25519PrivateKey.generate, lambda: rsa.generate_private_key(65537, 2048)])
def test_older_public_key_backups(site: Site, make: Callable[[], Private]) -> None:
    """A backup that an older version sealed to a public key is restored at the operator's word alone."""
    private = make()
    with site.open() as kms:
        ciphertext = seal(kms, new_key(kms).key_id)
    file = back_up(site, private)
    old = old_backup(site.folder / "old", contents_of(file, private), private)
    lose(site)
    with pytest.raises(StoreError, match=f"by a version without proofs.*{UNPROVEN}"):
        restore(site, old, private)
    with pytest.raises(StoreError, match="a version without signatures"):
        restore(site, old, private, signed_by=Ed25519PrivateKey.generate().public_key())
    with pytest.raises(ConfigurationError, match="give its --private-key"):
        restore(site, old)
    assert nothing_is_left(site)
    assert restore(site, old, private, unproven=True).proof == "none"
    with site.open() as kms:
        assert unseal(kms, ciphertext) == b"secret"


def test_older_token_backups(site: Site) -> None:
    """What an older version had the token seal proves itself, since only the token makes such a seal."""
    newer = back_up(site)
    old = old_token_backup(site.folder / "old", newer, site)
    lose(site)
    assert restore(site, old).proof == "token seal"


def test_seal_by_imported_material(site: Site) -> None:
    """A "seal of the token" by key material that a user has imported, whose bytes he knows, opens nothing."""
    material = os.urandom(32)
    newer = back_up(site)
    header, contents = open_by_token(newer, site)
    with site.open() as kms:
        (backing,) = kms.operator.attest(new_imported_key(kms, material))
    iv, key = os.urandom(12), os.urandom(32)
    made = AESGCM(material).encrypt(iv, key, b"hsmkms backup key v1\0" + header.installation.encode())
    evil = msgspec.structs.replace(header, recipient=backing.cka_id, sealed_key=made, help=iv)
    bad = in_our_envelope(site.folder / "bad", evil, contents, key)
    lose(site)
    with pytest.raises(StoreError, match="was not made for backups"):
        restore(site, bad)
    with pytest.raises(StoreError, match="was not made for backups"):
        restore(site, bad, unproven=True)


# -- the configuration in a backup ----------------------------------------------------------------------------------


class Refused(Exception):
    """No."""


class Answer:
    """A dialogue that records the configuration that it is shown, and answers."""

    def __init__(self, *, yes: bool) -> None:
        self.yes = yes
        self.shown: list[tuple[str, str | None, Settings]] = []

    def __call__(self, unsealed: Unsealed, signature: str | None, settings: Settings) -> None:
        """Answer."""
        self.shown.append((unsealed.sha256, signature, settings))
        if not self.yes:
            raise Refused


def armed(site: Site) -> tuple[bytes, Path]:
    """The site's configuration with a PIN command that leaves a trace; and where that is."""
    trace = site.folder / "trace"
    program = site.folder / "pin.sh"
    program.write_text(f"#!/bin/sh\ntouch {trace}\ncat {site.folder}/pin\n")
    program.chmod(0o700)
    text = (site.folder / "hsmkms.toml").read_text()
    return text.replace('file = "pin"', f'command = ["{program}"]').encode(), trace


@pytest.mark.parametrize("signed", [True, False])
def test_nothing_runs_before_the_answer(
    site: Site, private: X25519PrivateKey, signing_key: Ed25519PrivateKey, *, signed: bool
) -> None:
    """Without a yes no program out of a backup's configuration runs, signed or not, and nothing is left."""
    configuration, trace = armed(site)
    file = back_up(site, private, configuration=configuration, signing_key=signing_key)
    lose(site)
    (site.folder / "hsmkms.toml").unlink()
    signed_by = signing_key.public_key() if signed else None
    order = Order(keys=keys_of(private), signed_by=signed_by, accept_rollback=True)
    no, yes = Answer(yes=False), Answer(yes=True)
    with pytest.raises(Refused):
        restore_wiring.restore_with_its_configuration(site.folder, file, order, no)
    assert not trace.exists()
    assert nothing_is_left(site)
    assert not (site.folder / "hsmkms.toml").exists()
    restored = restore_wiring.restore_with_its_configuration(site.folder, file, order, yes)
    assert trace.exists()
    ((digest, signature, settings),) = no.shown
    assert digest == sha256(file.read_bytes()).hexdigest()
    assert (signature is not None) == signed
    assert settings.token.pin.command == (str(site.folder / "pin.sh"),)
    assert restored.proof.startswith("token")
    assert (site.folder / "hsmkms.toml").read_bytes() == configuration
    assert stat.S_IMODE((site.folder / "hsmkms.toml").stat().st_mode) == 0o600
    with Site(folder=site.folder, settings=config.load(site.folder / "hsmkms.toml")).open() as kms:
        new_key(kms)


def test_nothing_runs_with_the_operators_configuration(site: Site, private: X25519PrivateKey) -> None:
    """Where the operator has a configuration, that of the backup is not even read."""
    configuration, trace = armed(site)
    for name, text in {"armed": configuration, "garbage": b"\0not toml"}.items():
        file = back_up(site, private, name, configuration=text)
        lose(site)
        restore(site, file, private)
        assert not trace.exists()


def test_an_unproven_configuration_is_not_put_in_place(site: Site, private: X25519PrivateKey) -> None:
    """If the token refuses the origin, an accepted configuration is not left where it would be loaded."""
    configuration, _ = armed(site)
    contents = contents_of(back_up(site, private), private) | {"hsmkms.toml": configuration}
    file = sealed(site.folder / "bad", with_manifest(contents), private)
    lose(site)
    (site.folder / "hsmkms.toml").unlink()
    with pytest.raises(StoreError, match=UNPROVEN):
        restore_wiring.restore_with_its_configuration(site.folder, file, Order(keys=keys_of(private)), Answer(yes=True))
    assert not (site.folder / "hsmkms.toml").exists()
    assert nothing_is_left(site)


def test_unproven_and_old_is_refused_before_the_question(site: Site, private: X25519PrivateKey) -> None:
    """Where nothing can prove a backup any more, no error suggests accepting its configuration."""
    configuration, _ = armed(site)
    file = back_up(site, private, configuration=configuration)
    old = old_backup(site.folder / "old", contents_of(file, private), private)
    lose(site)
    answer = Answer(yes=True)
    with pytest.raises(StoreError, match=UNPROVEN):
        restore_wiring.restore_with_its_configuration(site.folder, old, Order(keys=keys_of(private)), answer)
    assert answer.shown == []


def test_a_file_that_changes_while_it_is_shown(site: Site, private: X25519PrivateKey) -> None:
    """The file that is restored is the one that was shown, whatever happens to it in between."""
    configuration, _ = armed(site)
    file = back_up(site, private, configuration=configuration)
    lose(site)
    (site.folder / "hsmkms.toml").unlink()

    class Swapping(Answer):
        def __call__(self, unsealed: Unsealed, signature: str | None, settings: Settings) -> None:
            file.write_bytes(b"something else")
            super().__call__(unsealed, signature, settings)

    restore_wiring.restore_with_its_configuration(
        site.folder, file, Order(keys=keys_of(private), accept_rollback=True), Swapping(yes=True)
    )
    assert (site.folder / "hsmkms.toml").read_bytes() == configuration


def test_the_configuration_of_another_folder(new_site: NewSite, private: X25519PrivateKey) -> None:
    """A configuration that names another data folder, or is none, is refused before any question."""
    site = new_site()
    elsewhere = (
        (site.folder / "hsmkms.toml").read_text().replace('# data_dir = "."', 'data_dir = "/elsewhere"').encode()
    )
    for name, configuration, words in (
        ("elsewhere", elsewhere, "has data_dir = /elsewhere"),
        ("garbage", b"\0", "is wrong"),
    ):
        file = back_up(site, private, name, configuration=configuration)
        lose(site)
        answer = Answer(yes=True)
        with pytest.raises(ConfigurationError, match=words):
            restore_wiring.restore_with_its_configuration(
                site.folder, file, Order(keys=keys_of(private), accept_rollback=True), answer
            )
        assert answer.shown == []
        restore(site, file, private)
