"""ML-DSA and ML-KEM on a token that has them; on others they are refused by name.

SoftHSM 2.6.1 has neither, so that most tests are skipped on it; test_firefox_has_ml_kem runs them on the NSS softokn of
Firefox, if that is installed. Peers are ``cryptography`` and the vectors that it ships (cryptography_vectors), which
are those of FIPS 203 by post-quantum-cryptography/KAT, with a ciphertext for implicit rejection (``ct_n``) in each.
"""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.hashes import SHAKE256, Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)
from devices import NewToken, Token, permit
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType
from pkcs11.types import Session
from tokens.nss import FIREFOX_FOLDERS, FOLDER_VARIABLE

from hsmkms.errors import TokenError, UnsupportedOperationException
from hsmkms.hsm.crypto import data_key_pairs, kem, signing
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.backing_keys import Kind
from hsmkms.hsm.objects.handle_keys import create_object
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.objects import find, handle_of, list_keys
from hsmkms.model.enums import KeySpec, KeyUsage, Operation, SigningAlgorithm

VECTORS = Path(cryptography_vectors.__file__).parent / "asymmetric" / "MLKEM"
VECTORS_OF_EACH = 20
KEMS = [KeySpec.ML_KEM_512, KeySpec.ML_KEM_768, KeySpec.ML_KEM_1024]
SIGNATURES = [KeySpec.ML_DSA_44, KeySpec.ML_DSA_65, KeySpec.ML_DSA_87]
OIDS = {
    **{spec: f"2.16.840.1.101.3.4.4.{number}" for number, spec in enumerate(KEMS, 1)},
    **{spec: f"2.16.840.1.101.3.4.3.{number}" for number, spec in enumerate(SIGNATURES, 17)},
}
ML_DSA = SigningAlgorithm.ML_DSA_SHAKE_256
MESSAGE = b"a message"
CHECKED_HERE = (KeySpec.ML_KEM_768, KeySpec.ML_KEM_1024)
"""Those that cryptography has."""


def kind_of(spec: KeySpec) -> Kind:
    """Return spec and usage of a key."""
    return spec, KeyUsage.ENCAPSULATE_DECAPSULATE if spec in KEMS else KeyUsage.SIGN_VERIFY


@pytest.fixture(scope="module")
def token(new_token: NewToken) -> Token:
    """Return a token of this module's own."""
    return new_token("post-quantum")


@pytest.fixture(scope="module")
def device(token: Token) -> Iterator[TokenDevice]:
    """Return its device."""
    device = token.open()
    yield device
    device.close()


def made(device: TokenDevice, spec: KeySpec) -> bytes:
    """Create a key; return its CKA_ID. Skips the test if the token has no such keys."""
    cka_id, kind = os.urandom(16), kind_of(spec)
    try:
        device.keys.check_kind(kind)
    except UnsupportedOperationException:
        pytest.skip(f"the token under test has no keys of KeySpec {spec}")
    device.keys.generate_backing_key(permit(Operation.CREATE_KEY, cka_id), cka_id, f"hsmkms {spec}", kind)
    return cka_id


def public_key(device: TokenDevice, cka_id: bytes, spec: KeySpec) -> bytes:
    """Return the public key as DER SubjectPublicKeyInfo."""
    return device.pairs.public_key(permit(Operation.GET_PUBLIC_KEY, cka_id), cka_id, kind_of(spec))


def decapsulate(device: TokenDevice, cka_id: bytes, ciphertext: bytes) -> bytes:
    """Decapsulate on the token."""
    return device.pairs.decapsulate(permit(Operation.DECAPSULATE, cka_id), cka_id, ciphertext)


# -- what a token has ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", KEMS + SIGNATURES)
def test_refused_by_name(device: TokenDevice, spec: KeySpec) -> None:
    """If the token has no such keys, the error names the spec and the alternatives, and no object stays on it."""
    cka_id, kind = os.urandom(16), kind_of(spec)
    may = permit(Operation.CREATE_KEY, cka_id)
    try:
        device.keys.generate_backing_key(may, cka_id, "hsmkms", kind)
    except UnsupportedOperationException:
        with pytest.raises(UnsupportedOperationException, match=rf"no keys of KeySpec {spec} for .*SYMMETRIC_DEFAULT"):
            device.keys.check_kind(kind)
        with pytest.raises(UnsupportedOperationException, match=f"no data key pairs of KeyPairSpec {spec}"):
            device.pairs.check_data_key_pair(spec)
        with device.connection.pool.session() as session:
            assert cka_id not in {key.cka_id for key in list_keys(session)}
    else:
        device.keys.check_kind(kind)
        assert device.keys.holds(cka_id)


@pytest.mark.parametrize("spec", KEMS + SIGNATURES)
def test_halves_are_as_ordered(device: TokenDevice, spec: KeySpec) -> None:
    """Both halves report the ordered attributes, with the usages of PKCS#11 3.2, by which the key is recognised."""
    cka_id = made(device, spec)
    private, wrong = device.keys.attest(cka_id, kind_of(spec))
    public, public_wrong = device.keys.attest_public(cka_id, kind_of(spec))
    assert (wrong, public_wrong) == ([], [])
    assert (private["CKA_SENSITIVE"], private["CKA_EXTRACTABLE"]) == (True, False)
    usage = re.compile("CRYPT|CAPSULATE|SIGN$|VERIFY$|WRAP|DERIVE")
    usages = {
        name for reported in (private, public) for name, value in reported.items() if usage.search(name) and value
    }
    wanted = {"CKA_DECAPSULATE", "CKA_ENCAPSULATE"} if spec in KEMS else {"CKA_SIGN", "CKA_VERIFY"}
    assert usages == wanted
    info = public_key(device, cka_id, spec)
    assert info[6:17] == der_oid(OIDS[spec])
    assert len(info) == KEY_FACTS[spec].size + 22


def der_oid(dotted: str) -> bytes:
    """Encode an object identifier whose arcs from the fourth on are below 128 or are 840."""
    first, second, *arcs = map(int, dotted.split("."))
    body = bytes((40 * first + second,)) + b"".join(
        bytes((0x86, 0x48)) if arc == 840 else bytes((arc,)) for arc in arcs
    )
    return b"\x06" + bytes((len(body),)) + body


@pytest.mark.parametrize("spec", KEMS + SIGNATURES)
def test_foreign_public_half(device: TokenDevice, spec: KeySpec) -> None:
    """A public half replaced by that of another pair is detected when a process first reads it, and not used."""
    cka_id, other = made(device, spec), made(device, spec)
    facts = KEY_FACTS[spec]
    with device.connection.pool.session() as session:
        own, foreign = (find(session, ObjectClass.PUBLIC_KEY, each) for each in (cka_id, other))
        assert own is not None
        assert foreign is not None
        usage = Attribute.ENCAPSULATE if spec in KEMS else Attribute.VERIFY
        template = {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: facts.key_type,
            Attribute.TOKEN: True,
            Attribute.ID: cka_id,
            Attribute.LABEL: "hsmkms",
            Attribute.VALUE: foreign[Attribute.VALUE],
            **facts.parameters,
            usage: True,
        }
        own.destroy()
        create_object(session, template)
    with pytest.raises(TokenError, match="does not belong to the private half"):
        public_key(device, cka_id, spec)


def test_pairs_that_do_not_belong_together(device: TokenDevice) -> None:
    """The proof compares the encapsulated secret with the decapsulated one, so that halves of two pairs are refused."""
    first, second = (made(device, KeySpec.ML_KEM_768) for _ in range(2))
    encapsulated = device.pairs.encapsulate(permit(Operation.ENCAPSULATE, first), first, kind_of(KeySpec.ML_KEM_768))
    assert decapsulate(device, first, encapsulated.ciphertext) == encapsulated.secret
    assert decapsulate(device, second, encapsulated.ciphertext) != encapsulated.secret


# -- ML-KEM ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", CHECKED_HERE)
def test_encapsulated_elsewhere(device: TokenDevice, spec: KeySpec) -> None:
    """The token decapsulates what another library encapsulates to the public key."""
    cka_id = made(device, spec)
    peer: Any = load_der_public_key(public_key(device, cka_id, spec))
    for _ in range(3):
        secret, ciphertext = peer.encapsulate()
        assert decapsulate(device, cka_id, ciphertext) == secret


@pytest.mark.parametrize("spec", KEMS)
def test_encapsulated_here(device: TokenDevice, spec: KeySpec) -> None:
    """Each encapsulation has a new secret of 32 bytes, and a ciphertext of the spec's length."""
    cka_id = made(device, spec)
    several = [device.pairs.encapsulate(permit(Operation.ENCAPSULATE, cka_id), cka_id, kind_of(spec)) for _ in range(3)]
    assert [decapsulate(device, cka_id, each.ciphertext) for each in several] == [each.secret for each in several]
    assert len({each.secret for each in several}) == len(several)
    assert {len(each.secret) for each in several} == {32}
    assert {len(each.ciphertext) for each in several} == {KEY_FACTS[spec].ciphertext_bytes}


@pytest.mark.parametrize("spec", KEMS)
def test_encapsulated_on_the_token(device: TokenDevice, spec: KeySpec) -> None:
    """The token encapsulates to a public key as well, with a buffer of the right length, and keeps no object."""
    cka_id = made(device, spec)
    info = public_key(device, cka_id, spec)
    with device.connection.pool.session() as session:
        before = len(session_objects(session))
        secret, ciphertext = kem.encapsulate_on_token(session, KEY_FACTS[spec], info)
        assert len(session_objects(session)) == before
    assert len(ciphertext) == KEY_FACTS[spec].ciphertext_bytes
    assert decapsulate(device, cka_id, ciphertext) == secret


def session_objects(session: Session) -> list[object]:
    """Return all present session objects."""
    return list(session.get_objects({Attribute.TOKEN: False}))


@pytest.mark.parametrize("spec", KEMS)
def test_altered_ciphertexts_give_other_secrets(device: TokenDevice, spec: KeySpec) -> None:
    """Implicit rejection: every ciphertext of the right length gives 32 bytes, always the same ones."""
    cka_id = made(device, spec)
    right = device.pairs.encapsulate(permit(Operation.ENCAPSULATE, cka_id), cka_id, kind_of(spec))
    length = KEY_FACTS[spec].ciphertext_bytes
    altered = [
        bytes((right.ciphertext[0] ^ 1,)) + right.ciphertext[1:],
        right.ciphertext[:-1] + bytes((right.ciphertext[-1] ^ 0x80,)),
        bytes(length),
        b"\xff" * length,
        os.urandom(length),
    ]
    secrets = [decapsulate(device, cka_id, each) for each in altered]
    assert {len(secret) for secret in secrets} == {32}
    assert len({*secrets, right.secret}) == len(secrets) + 1
    assert [decapsulate(device, cka_id, each) for each in altered] == secrets


@pytest.mark.parametrize("spec", KEMS)
def test_vectors(device: TokenDevice, spec: KeySpec) -> None:
    """Published ciphertexts give the published secrets, those for implicit rejection too."""
    made(device, spec)
    for vector in vectors(spec)[:VECTORS_OF_EACH]:
        with device.connection.pool.session() as session:
            private = known_private_key(session, spec, vector)
            assert kem.decapsulate(session, private, vector["ct"]) == vector["ss"]
            assert kem.decapsulate(session, private, vector["ct_n"]) == vector["ss_n"]


def vectors(spec: KeySpec) -> list[dict[str, bytes]]:
    """Return the published vectors of a spec."""
    text = (VECTORS / f"kat_{spec.replace('ML_KEM_', 'MLKEM_')}.rsp").read_text()
    pairs = re.findall(r"^(\w+) = ([0-9a-f]{20,})$", text, re.MULTILINE)
    names = list(dict.fromkeys(name for name, _ in pairs))
    values = [bytes.fromhex(value) for _, value in pairs]
    return [dict(zip(names, values[at : at + len(names)], strict=True)) for at in range(0, len(values), len(names))]


def known_private_key(session: Session, spec: KeySpec, vector: dict[str, bytes]) -> int:
    """Load a published private key as a session object; return its handle."""
    template = {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.KEY_TYPE: KeyType.ML_KEM,
        Attribute.TOKEN: False,
        Attribute.DECAPSULATE: True,
        Attribute.VALUE: vector["sk"],
        Attribute.SEED: vector["d"] + vector["z"],
        **KEY_FACTS[spec].parameters,
    }
    try:
        return handle_of(create_object(session, template))
    except PKCS11Error as exc:
        pytest.skip(f"the token under test takes no published private key ({type(exc).__name__})")


@pytest.mark.parametrize("spec", KEMS)
def test_data_key_pairs(device: TokenDevice, spec: KeySpec) -> None:
    """The private key of a data key pair is a seed that another library or the token reads; no object stays."""
    made(device, spec)
    with device.connection.pool.session() as session:
        before = len(list(list_keys(session))), len(session_objects(session))
    device.pairs.check_data_key_pair(spec)
    pair = device.pairs.data_key_pair(permit(Operation.GENERATE_DATA_KEY_PAIR), spec)
    assert len(pair.private) == 86  # the same for all parameter sets: a seed of 64 bytes
    assert pair.private[5:18] == pair.public[4:17]  # the AlgorithmIdentifier
    with device.connection.pool.session() as session:
        assert (len(list(list_keys(session))), len(session_objects(session))) == before
        private = create_object(session, seed_template(spec, pair.private[-64:]))
        secret, ciphertext = kem.encapsulate_on_token(session, KEY_FACTS[spec], pair.public)
        assert kem.decapsulate(session, handle_of(private), ciphertext) == secret
        private.destroy()
    if spec in CHECKED_HERE:
        key: Any = load_der_private_key(pair.private, None)
        assert key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == pair.public
        peer: Any = load_der_public_key(pair.public)
        secret, ciphertext = peer.encapsulate()
        assert key.decapsulate(ciphertext) == secret


def seed_template(spec: KeySpec, seed: bytes) -> dict[Attribute, Any]:
    """Return the template of a session object that is the private key of a seed."""
    return {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.KEY_TYPE: KeyType.ML_KEM,
        Attribute.TOKEN: False,
        Attribute.DECAPSULATE: True,
        Attribute.SEED: seed,
        **KEY_FACTS[spec].parameters,
    }


@pytest.mark.parametrize("way", data_key_pairs.WAYS, ids=lambda way: way.name)
def test_another_seed(device: TokenDevice, way: data_key_pairs.Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that does not fit the public key is detected on the token, for each way, and not returned."""
    made(device, KeySpec.ML_KEM_512)
    facts, right = KEY_FACTS[KeySpec.ML_KEM_512], data_key_pairs._of_seed
    with device.connection.pool.session() as session:
        try:
            data_key_pairs._made(session, facts, way)
        except (PKCS11Error, data_key_pairs.UnreadableError) as exc:
            pytest.skip(f"the token under test gives no ML_KEM_512 key away {way.name} ({type(exc).__name__})")
        monkeypatch.setattr(
            data_key_pairs, "_of_seed", lambda facts, seed: right(facts, bytes((seed[0] ^ 1,)) + seed[1:])
        )
        with pytest.raises(UnsupportedOperationException, match=f"no usable private key {way.name}"):
            data_key_pairs.make_data_key_pair(session, facts, [way])


# -- ML-DSA ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["in this process", "on the token"])
def verify(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Verify with a version of cryptography that has ML-DSA, or as with one that has not."""

    def act(device: TokenDevice, cka_id: bytes, spec: KeySpec, message: bytes, signature: bytes, **more: bool) -> bool:
        may = permit(Operation.VERIFY, cka_id)
        return device.pairs.verify(may, cka_id, kind_of(spec), ML_DSA, message, signature, **more)

    if request.param == "on the token":
        here = signing.SIGNINGS[ML_DSA]
        there = signing.Signing(key_type=here.key_type, mechanism=here.mechanism)
        monkeypatch.setattr(signing, "SIGNINGS", {**signing.SIGNINGS, ML_DSA: there})
    return act


@pytest.mark.parametrize("spec", SIGNATURES)
def test_signatures(device: TokenDevice, spec: KeySpec, verify: Callable[..., bool]) -> None:
    """Another library verifies the token's signatures; changed ones are refused."""
    cka_id = made(device, spec)
    signature = device.pairs.sign(permit(Operation.SIGN, cka_id), cka_id, ML_DSA, MESSAGE)
    peer: Any = load_der_public_key(public_key(device, cka_id, spec))
    peer.verify(signature, MESSAGE)
    assert verify(device, cka_id, spec, MESSAGE, signature)
    assert not verify(device, cka_id, spec, b"another", signature)
    assert not verify(device, cka_id, spec, MESSAGE, signature[:-1] + bytes((signature[-1] ^ 1,)))
    assert not verify(device, cka_id, spec, MESSAGE, signature[:-1])


@pytest.mark.parametrize("spec", SIGNATURES)
def test_external_mu(device: TokenDevice, spec: KeySpec) -> None:
    """A signature of the message is one of its mu (FIPS 204, algorithm 7, line 6), and of no other."""
    cka_id = made(device, spec)
    signature = device.pairs.sign(permit(Operation.SIGN, cka_id), cka_id, ML_DSA, MESSAGE)
    public = public_key(device, cka_id, spec)[-KEY_FACTS[spec].size :]
    mu = shake256(shake256(public) + b"\x00\x00" + MESSAGE)
    may, other = permit(Operation.VERIFY, cka_id), shake256(b"another")
    assert device.pairs.verify(may, cka_id, kind_of(spec), ML_DSA, mu, signature, external_mu=True)
    assert not device.pairs.verify(may, cka_id, kind_of(spec), ML_DSA, other, signature, external_mu=True)


def shake256(data: bytes) -> bytes:
    """Return 64 bytes of SHAKE256."""
    hashed = Hash(SHAKE256(64))
    hashed.update(data)
    return hashed.finalize()


# -- Firefox ---------------------------------------------------------------------------------------------------------


def test_firefox_has_ml_kem(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The NSS softokn of Firefox passes all tests of ML_KEM_768 and ML_KEM_1024 in this file.

    Its libraries are found by the loader only if the process was started with LD_LIBRARY_PATH, so it runs in another.
    """
    if pytestconfig.getoption("--hsm-driver") != "softhsm":
        pytest.skip("the module under test is another one already")
    folders = map(Path, filter(None, (os.environ.get(FOLDER_VARIABLE), *FIREFOX_FOLDERS)))
    folder = next((each for each in folders if (each / "libsoftokn3.so").is_file()), None)
    if folder is None:
        pytest.skip(
            f"Firefox is not installed: install firefox-esr, or name the folder that has it in {FOLDER_VARIABLE}"
        )
    report, here = tmp_path / "report.xml", Path(__file__)
    files = [here, here.with_name("test_hsm_post_quantum_api.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    ran = subprocess.run(
        [*command, "--hsm-driver", "firefox", *map(str, files)],
        cwd=here.parents[2],
        env=os.environ | {"LD_LIBRARY_PATH": str(folder), FOLDER_VARIABLE: str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    cases = {case.get("name"): case.find("skipped") is None for case in ET.parse(report).iter("testcase")}  # noqa: S314
    needed = [name for name in cases if name and re.search("ML_KEM_(768|1024)", name)]
    assert len(needed) > 15
    assert [name for name in needed if not cases[name]] == []
