"""Wrapping keys, and what a token can do with imported material."""

import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import wrapped
from cryptography.hazmat.primitives.asymmetric import rsa
from devices import MakeToken, Token, checks_of, new_key, permit, require_copyable
from msgspec.structs import replace
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType
from pkcs11.types import Session
from shims import Played
from tokens.driver import NotPossibleError

from hsmkms.errors import (
    ModuleError,
    SessionLostError,
    TokenError,
    TokenUnavailableError,
    TokenUnfitError,
    UnsupportedOperationException,
)
from hsmkms.hsm import import_profiles
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.imports import probe as import_probe
from hsmkms.hsm.imports import wrapping
from hsmkms.hsm.imports.probe import probe_import
from hsmkms.hsm.imports.unwrapping import Copies, Unwrapping, WrappedMaterial
from hsmkms.hsm.imports.wrapping import ImportProfile, Lengths
from hsmkms.hsm.objects.objects import find, tell
from hsmkms.hsm.session import module as modules
from hsmkms.model.enums import Operation, WrappingAlgorithm
from hsmkms.model.permit import OperatorAct
from hsmkms.model.token_check import Outcome

SHA_1 = (WrappingAlgorithm.RSAES_OAEP_SHA_1, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1)
SHA_256 = (WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256)

SOFT_KEY = rsa.generate_private_key(65537, 3072).public_key()

PRIVATE_HALF = {
    Attribute.CLASS: ObjectClass.PRIVATE_KEY,
    Attribute.KEY_TYPE: int(KeyType.RSA),
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.ALWAYS_SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.NEVER_EXTRACTABLE: True,
    Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
    Attribute.LOCAL: True,
    Attribute.UNWRAP: True,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.SIGN_RECOVER: False,
    Attribute.DERIVE: False,
}
"""Typed by hand from design decision 4: a wrapping key can unwrap, and nothing else."""


def without(*mechanisms: str) -> str:
    """Return a SoftHSM configuration that hides mechanisms. SoftHSM 2.6.1 ignores the first name after the minus."""
    return f"slots.mechanisms = -,{','.join(mechanisms)}\n"


@pytest.fixture
def played(token: Token, shim_path: Path) -> Played:
    """Return the token behind the shim."""
    return Played.of(token, shim_path)


def make(device: TokenDevice, bits: int = 2048, label: str = "a wrapping key") -> tuple[bytes, bytes]:
    """Create a wrapping key; return its CKA_ID and its public half."""
    key = os.urandom(16)
    shown = permit(Operation.GET_PARAMETERS_FOR_IMPORT, key)
    return key, device.imports.generate_wrapping_key(shown, key, label, bits)


def listed(session: Session) -> int:
    """Count the objects that a session sees, of the token and of sessions."""
    return len(list(session.get_objects({})))


# -- wrapping keys --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_trial_of_imports")
@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_wrapping_key_is_as_ordered(device: TokenDevice, session: Session, bits: int) -> None:
    """The private half stays and can only unwrap; the public half is returned, and is not on the token."""
    key, public_key = make(device, bits)
    private = find(session, ObjectClass.PRIVATE_KEY, key)
    assert private is not None
    assert tell(private, tuple(PRIVATE_HALF)) == PRIVATE_HALF
    assert (private[Attribute.ID], private[Attribute.LABEL]) == (key, "a wrapping key")
    assert listed(session) == 1
    public = wrapped.load(public_key)
    assert public.key_size == bits
    assert public.public_numbers().e == 65537
    assert public.public_numbers().n == int.from_bytes(private[Attribute.MODULUS])


@pytest.mark.usefixtures("one_trial_of_imports")
def test_listed_in_the_inventory(device: TokenDevice) -> None:
    """The inventory lists a wrapping key as such, so that reconcile can find its row."""
    witness, (key, _) = new_key(device), make(device, label="whose?")
    (found,) = (each for each in device.keys.inventory(witness) if each.cka_id == key)
    assert (found.object_class, found.label, found.is_secret_key) == (ObjectClass.PRIVATE_KEY, "whose?", False)


@pytest.mark.usefixtures("one_trial_of_imports")
def test_destruction(device: TokenDevice, session: Session) -> None:
    """A wrapping key is destroyed by its CKA_ID; a second call returns False."""
    key, _ = make(device)
    shown = permit(OperatorAct.MAINTAIN, key)
    assert device.imports.destroy_wrapping_key(shown, key)
    assert listed(session) == 0
    assert not device.imports.destroy_wrapping_key(shown, key)


@pytest.mark.usefixtures("one_trial_of_imports")
def test_secret_and_wrapping_keys_are_kept_apart(device: TokenDevice) -> None:
    """Neither destruction affects a key of the other kind, even with the same CKA_ID."""
    key = new_key(device)
    device.imports.generate_wrapping_key(permit(Operation.GET_PARAMETERS_FOR_IMPORT, key), key, "the same id", 2048)
    shown = permit(OperatorAct.MAINTAIN, key)
    assert device.imports.destroy_wrapping_key(shown, key)
    assert not device.imports.destroy_wrapping_key(shown, key)
    assert device.keys.holds(key)
    make(device)
    assert device.keys.destroy(shown, key)
    assert not device.keys.holds(key)


@pytest.mark.usefixtures("one_trial_of_imports")
def test_wrong_public_half(device: TokenDevice, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wrapping key stays whose size is wrong, or whose halves do not belong together."""
    public_halves = iter([SOFT_KEY, SOFT_KEY, SOFT_KEY, wrapped.load(make(device)[1])])
    monkeypatch.setattr(wrapping, "public_half", lambda _half: next(public_halves))
    with pytest.raises(TokenUnfitError, match="it has 3072 bits instead of 2048"):
        make(device)
    with pytest.raises(TokenUnfitError, match="its halves do not belong together"):
        make(device, 3072)
    assert listed(session) == 1


def test_half_with_missing_attributes(played: Played) -> None:
    """A private half without a reported exponent has the ordered one; without a modulus it is refused."""
    device = played.token.open()
    key, public_key = make(device)
    with device.connection.pool.session() as session:
        private = find(session, ObjectClass.PRIVATE_KEY, key)
        assert private is not None
        played.order(f"unknown {Attribute.PUBLIC_EXPONENT:#x} marked")
        public = wrapping.public_half(private)
        assert public.public_numbers() == wrapped.load(public_key).public_numbers()
        played.order(f"unknown {Attribute.MODULUS:#x} marked")
        with pytest.raises(TokenError):
            wrapping.public_half(private)


def test_generation_is_never_repeated(
    device: TokenDevice, lose: Callable[[TokenDevice], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation that loses its session is tried once and leaves no object; after an earlier loss it succeeds."""
    device.imports.wrapping_algorithms()
    # No other process has changed the token since, so that the generation does not reread it.
    with device.connection.write_lock():
        pass
    tries = []
    take = device.connection.pool.take

    def take_and_lose() -> Session:
        session = take()
        tries.append(session)
        lose(device)
        return session

    with monkeypatch.context() as patch:
        patch.setattr(device.connection.pool, "take", take_and_lose)
        with pytest.raises(SessionLostError):
            make(device)
    assert len(tries) == 1
    lose(device)
    key, _ = make(device)
    assert [each.cka_id for each in device.keys.inventory(key)] == [key]


# -- what the token can do ------------------------------------------------------------------------------------------


def test_softhsm(device: TokenDevice) -> None:
    """SoftHSM 2.6.1 unwraps OAEP with SHA-1 only, and AES-KWP; it reports no lengths, which are proven by trials."""
    assert device.imports.wrapping_algorithms() == SHA_1
    assert [device.imports.on_device(each) for each in (*SHA_1, *SHA_256)] == [True, True, False, False]
    profile = device.imports.profiles.symmetric()
    assert profile.lengths is Lengths.PROBED
    assert [prf.name for prf in profile.prfs] == ["AES_CMAC", "SHA256_HMAC"]
    assert profile.key_wrap
    assert not profile.raw_rsa


def test_host_unwrap(token: Token) -> None:
    """With ``host_unwrap`` the token's own algorithms come first; the others are not on the device."""
    device = token.open(host_unwrap=True)
    assert device.imports.wrapping_algorithms() == (*SHA_1, *SHA_256)
    assert [device.imports.on_device(each) for each in (*SHA_1, *SHA_256)] == [True, True, False, False]


@pytest.mark.usefixtures("one_trial_of_imports")
def test_host_wrapping_keys_decrypt_as_well(token: Token) -> None:
    """With ``host_unwrap`` a wrapping key can also decrypt if the token lacks an OAEP hash; nothing else changes."""
    device = token.open(host_unwrap=True)
    require_copyable(device)
    key, _ = make(device)
    through_host = not all(map(device.imports.on_device, device.imports.wrapping_algorithms()))
    with device.connection.pool.session() as session:
        private = find(session, ObjectClass.PRIVATE_KEY, key)
        assert private is not None
        assert tell(private, tuple(PRIVATE_HALF)) == PRIVATE_HALF | {Attribute.DECRYPT: through_host}


def test_pkcs1_v1_5_is_never_done(token: Token) -> None:
    """RSAES_PKCS1_V1_5 is offered by no device, with ``host_unwrap`` or without."""
    for host_unwrap in (False, True):
        device = token.open(host_unwrap=host_unwrap)
        assert WrappingAlgorithm.RSAES_PKCS1_V1_5 not in device.imports.wrapping_algorithms()
        assert not device.imports.on_device(WrappingAlgorithm.RSAES_PKCS1_V1_5)
        device.close()


def test_host_unwrap_is_one_for_the_process(token: Token) -> None:
    """A token that is open without ``host_unwrap`` is not shared with one that set it, nor the other way round."""
    for first in (False, True):
        device = token.open(host_unwrap=first)
        with pytest.raises(ModuleError, match="host_unwrap"):
            token.open(host_unwrap=not first)
        assert token.open(host_unwrap=first) is device
        device.close()
        device.close()
        assert not modules._registry._open


@pytest.mark.parametrize("missing", ["RSA_PKCS_OAEP", "RSA_PKCS_KEY_PAIR_GEN"])
def test_token_without_rsa(make_token: MakeToken, missing: str) -> None:
    """A token that cannot unwrap imports nothing and says so, and generated keys work."""
    device = make_token(configuration=without(f"CKM_{missing}")).open(host_unwrap=True)
    assert device.imports.wrapping_algorithms() == ()
    material = WrappedMaterial(bytes(16), SHA_1[0], bytes(256))
    with pytest.raises(UnsupportedOperationException, match="it can do no wrapping algorithm"):
        device.imports.fingerprints(permit(Operation.IMPORT_KEY_MATERIAL, bytes(16)), material, "key id")
    outcomes = {name: each.outcome for name, each in checks_of(device).items()}
    assert outcomes["OAEP SHA-1"] is outcomes["AES-KWP"] is outcomes["AES-CMAC"] is Outcome.LIMITED
    assert Outcome.FAILED not in outcomes.values()
    assert device.keys.holds(new_key(device))


def test_token_without_key_wrap(make_token: MakeToken) -> None:
    """Without AES-KWP only plain OAEP is possible."""
    device = make_token(configuration=without("CKM_AES_KEY_WRAP_PAD")).open(host_unwrap=True)
    assert device.imports.wrapping_algorithms() == (SHA_1[0], SHA_256[0])
    assert checks_of(device, "AES-KWP")["AES-KWP"].outcome is Outcome.LIMITED


def test_token_without_raw_rsa(make_token: MakeToken) -> None:
    """Without raw RSA ``host_unwrap`` adds nothing, and wrapping keys get no DECRYPT."""
    device = make_token(configuration=without("CKM_RSA_X_509")).open(host_unwrap=True)
    assert device.imports.wrapping_algorithms() == SHA_1
    assert device.imports.profiles.symmetric() == replace(device.imports.profiles.symmetric(), raw_rsa=False)


def test_token_without_cmac(make_token: MakeToken) -> None:
    """Without AES-CMAC there is one fingerprint less, the other is unchanged, and lengths are still proven."""
    device = make_token(configuration=without("CKM_AES_CMAC")).open()
    profile = device.imports.profiles.symmetric()
    assert ([prf.name for prf in profile.prfs], profile.lengths) == (["SHA256_HMAC"], Lengths.PROBED)
    assert checks_of(device, "AES-CMAC")["AES-CMAC"].outcome is Outcome.LIMITED
    key, public_key = make(device)
    secret = os.urandom(32)
    for algorithm in device.imports.wrapping_algorithms():
        material = WrappedMaterial(key, algorithm, wrapped.wrap(public_key, algorithm, secret))
        prints = device.imports.fingerprints(permit(Operation.IMPORT_KEY_MATERIAL, key), material, "key id")
        assert prints == {"SHA256_HMAC": wrapped.expected_fingerprints(secret, "key id")["SHA256_HMAC"]}


def test_token_that_proves_no_length(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """If neither CKA_VALUE_LEN nor a trial distinguishes lengths, nothing can be imported."""
    with closing(token.open()) as device:
        if device.imports.profiles.symmetric().lengths is Lengths.HONEST:
            raise NotPossibleError("it reports the lengths of unwrapped keys, so none is tried")
    monkeypatch.setattr(Unwrapping, "_tried", lambda *_: True)
    device = token.open(host_unwrap=True)
    assert device.imports.profiles.symmetric().lengths is Lengths.UNPROVEN
    assert device.imports.wrapping_algorithms() == ()


def test_token_that_unwraps_nothing(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose listed mechanisms unwrap nothing imports nothing."""
    monkeypatch.setattr(import_probe, "wrap", lambda *_: os.urandom(256))
    device = token.open()
    assert device.imports.profiles.symmetric() == ImportProfile()
    assert checks_of(device, "OAEP SHA-1")["OAEP SHA-1"].outcome is Outcome.LIMITED
    assert device.imports.wrapping_algorithms() == ()


def test_probe_that_fails(played: Played) -> None:
    """A device fault during the probe is an error, not a result; ``token-check`` names its return code."""
    device = played.token.open()
    played.order("fault C_GenerateKeyPair * return 0x30")
    with pytest.raises(TokenUnavailableError):
        device.imports.wrapping_algorithms()
    check = checks_of(device, "AES-KWP")["AES-KWP"]
    assert (check.detail, check.ckr) == ("the token answered CKR_DEVICE_ERROR", "CKR_DEVICE_ERROR")
    assert check.outcome is Outcome.LIMITED
    played.order("fault C_UnwrapKey * return 0x30", "fault C_GenerateKey * return 0x30")
    with pytest.raises(TokenUnavailableError):
        device.imports.wrapping_algorithms()
    played.order()
    assert device.imports.wrapping_algorithms() == SHA_1


def test_honest_token(played: Played) -> None:
    """A token that reports 16 for 16 bytes and 32 for 32 is honest; one that always reports 32 is not."""
    for order, found in (("lengths honest", Lengths.HONEST), ("lengths 32", Lengths.PROBED)):
        played.order(order)
        device = played.token.open()
        assert device.imports.profiles.symmetric().lengths is found
        device.close()


def test_probe_is_lazy_and_done_once(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a device generates no RSA key; the first query does, and concurrent queries share the result."""
    probes = []

    def counted(*arguments: Any, **settings: Any) -> ImportProfile:  # noqa: ANN401 - what probe_import takes
        probes.append(arguments)
        return probe_import(*arguments, **settings)

    monkeypatch.setattr(import_profiles, "probe_import", counted)
    device = token.open()
    assert probes == []
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(device.imports.wrapping_algorithms())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [SHA_1] * 6
    assert len(probes) == 1


def test_one_pair_for_every_kind(device: TokenDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """If every kind is asked for first, one key pair serves all trials, with the results of two trials in a row."""
    pairs: list[bool] = []
    make_pair = import_probe.make_pair

    def counted(*arguments: Any, store: bool) -> tuple[Any, Any]:  # noqa: ANN401 - as of the function
        pairs.append(store)
        return make_pair(*arguments, store=store)

    monkeypatch.setattr(import_probe, "make_pair", counted)
    at_once = device.imports.profiles.every_kind()
    if not at_once.algorithms():
        raise NotPossibleError("the token imports no key material")
    assert device.imports.profiles.symmetric() is at_once
    assert pairs == [False]
    in_a_row = import_profiles.ImportProfiles(device.connection)
    assert in_a_row.symmetric() == replace(at_once, pairs=frozenset(), macs=frozenset())
    assert in_a_row.every_kind() == at_once
    assert pairs == [False] * 3


def test_probe_leaves_nothing(device: TokenDevice, session: Session) -> None:
    """The probe leaves no object, neither on the token nor in a session."""
    device.imports.wrapping_algorithms()
    checks_of(device)
    assert listed(session) == 0


def test_lost_session_is_no_answer(
    device: TokenDevice, lose: Callable[[TokenDevice], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is lost during the probe is not recorded as a lack of capabilities."""
    losses: list[object] = []

    def lost_once(copies: Copies, *arguments: Any) -> bytes:  # noqa: ANN401 - what sign takes
        if not losses:
            losses.append(copies)
            lose(device)
        return sign(copies, *arguments)

    sign = Copies.sign
    monkeypatch.setattr(Copies, "sign", lost_once)
    assert device.imports.wrapping_algorithms() == SHA_1
    assert len(losses) == 1
