"""Every fault that a token knows, at every call that matters: a named answer, nothing lost, and all well afterwards."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import shims
import wrapped
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from lifecycle import delete_material, new_empty_key, new_imported_key, request_to_import
from msgspec import Struct
from pkcs11.constants import Attribute
from service_sites import START, NewFolder, Site, close_everything, new_key, seal, unseal
from waiting import until

from hsmkms.errors import HsmKmsError, TokenUnfitError
from hsmkms.kms import Kms
from hsmkms.model.asymmetric import SignRequest
from hsmkms.model.crypto import GenerateRandomRequest
from hsmkms.model.enums import WrappingAlgorithm
from hsmkms.model.importing import GetParametersForImportRequest, ImportKeyMaterialRequest
from hsmkms.service.operator.reconcile import MENDABLE
from hsmkms.wiring import core as wiring

CODES = {
    "DEVICE_ERROR": 0x30,
    "DEVICE_MEMORY": 0x31,
    "DEVICE_REMOVED": 0x32,
    "FUNCTION_FAILED": 0x06,
    "OBJECT_HANDLE_INVALID": 0x82,
    "PIN_LOCKED": 0xA4,
    "SESSION_CLOSED": 0xB0,
    "SESSION_COUNT": 0xB1,
    "SESSION_HANDLE_INVALID": 0xB3,
    "TOKEN_NOT_PRESENT": 0xE0,
    "USER_NOT_LOGGED_IN": 0x101,
    "CRYPTOKI_NOT_INITIALIZED": 0x190,
}

# A search that failed is ended by python-pkcs11 when its iterator is collected, and that fails as well.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NAMED = {"DependencyTimeoutException", "KeyUnavailableException", "LimitExceededException", "ThrottlingException"}
UNREADABLE = {"C_GetAttributeValue": {"UnsupportedOperationException"}}
"""A token that makes keys and never shows what it made is unfit."""

REPEATED = ("SESSION_HANDLE_INVALID", "USER_NOT_LOGGED_IN", "OBJECT_HANDLE_INVALID", "DEVICE_ERROR")
"""Faults that are tried for a single call as well as for all."""

PATIENCE = 60
"""Seconds after which a test gives up."""


class Bench(Struct):
    """An open installation on a played token, and everything that was acknowledged: ciphertexts of all keys."""

    site: Site
    kms: Kms
    key_id: str
    signer: str
    acknowledged: list[bytes]

    def order(self, *lines: str) -> None:
        """Set the orders of the token's shim."""
        shims.order(self.control, *lines)

    @property
    def control(self) -> Path:
        """The control file with the orders of the token's shim."""
        return self.site.folder / "shim.control"

    def lose_login(self) -> None:
        """As if the token had forgotten this process."""
        device = self.kms._core.device
        device.connection.pool.discard_idle()
        device.connection.module.cryptoki.close_session(device.connection.login_handle)

    def recover(self) -> None:
        """End the fault and allow the PIN again; then everything must work soon."""
        self.order()
        (self.site.folder / "pin-refused.json").unlink(missing_ok=True)
        device = self.kms._core.device
        until(
            lambda: not device.connection.sessions().away and device.connection._reconnector._thread is None, PATIENCE
        )
        for ciphertext in self.acknowledged[-3:]:
            assert unseal(self.kms, ciphertext) == b"secret"

    def encrypt(self) -> None:
        """Encrypt, with whatever session there is."""
        self.acknowledged.append(seal(self.kms, self.key_id))

    def create(self) -> None:
        """Create a key, and use it."""
        made = new_key(self.kms).key_id
        self.acknowledged.append(seal(self.kms, made))

    def search(self) -> None:
        """Encrypt with a key whose handle is not known."""
        self.kms._core.device.connection.handles.forget_all()
        self.encrypt()

    def open_session(self) -> None:
        """Encrypt in a new session."""
        self.kms._core.device.connection.pool.discard_idle()
        self.encrypt()

    def log_in(self) -> None:
        """Encrypt after the login was lost."""
        self.lose_login()
        self.encrypt()

    def sign(self) -> None:
        """Sign with a key pair."""
        self.kms.sign(SignRequest(key_id=self.signer, message=b"x", signing_algorithm="ECDSA_SHA_256"))

    def random(self) -> None:
        """Draw random bytes."""
        self.kms.generate_random(GenerateRandomRequest(number_of_bytes=8))

    def seal_log(self) -> None:
        """Record something, and seal the audit log."""
        self.random()
        self.kms.operator.audit._sealer.seal(timedelta(0))


JOBS: dict[str, Callable[[Bench], None]] = {
    "C_EncryptInit": Bench.encrypt,
    "C_Encrypt": Bench.encrypt,
    "C_FindObjectsInit": Bench.search,
    "C_FindObjects": Bench.search,
    "C_GenerateKey": Bench.create,
    "C_GetAttributeValue": Bench.create,
    "C_OpenSession": Bench.open_session,
    "C_Login": Bench.log_in,
    "C_SignInit": Bench.sign,
    "C_Sign": Bench.sign,
    "C_GenerateRandom": Bench.random,
    "C_CreateObject": Bench.seal_log,
}


@pytest.fixture(scope="module")
def bench(new_folder: NewFolder, shim_path: Path) -> Iterator[Bench]:
    """The installation of these tests."""
    plain = Site.new_token(new_folder())
    control = plain.folder / "shim.control"
    shims.order(control)
    behind = plain.settings.token
    token = msgspec.structs.replace(
        behind,
        module=shim_path,
        environment=behind.environment | shims.variables(behind.module, control),
        session_wait_seconds=1.0,
    )
    site = Site.written(plain.folder, msgspec.structs.replace(plain.settings, token=token), "hsmkms.toml")
    wiring.initialise(site.settings, lambda: START)
    kms = site.open()
    signer = new_key(kms, key_spec="ECC_NIST_P256", key_usage="SIGN_VERIFY").key_id
    bench = Bench(site, kms, new_key(kms).key_id, signer, [])
    bench.encrypt()
    yield bench
    bench.order()
    kms.close()
    close_everything()


def answer(act: Callable[[], object]) -> str:
    """Return how a call ended: "well", or the code of its error."""
    try:
        act()
        outcome = "well"
    except HsmKmsError as exc:
        outcome = exc.code if len(str(exc)) > 20 else "no sentence for people"
    return outcome


@pytest.mark.parametrize("function", JOBS)
def test_fault_at(bench: Bench, function: str) -> None:
    """Once or for good, each fault at the function gives a named answer; afterwards all is well."""
    for name, which in (*((code, "*") for code in CODES), *((each, "1") for each in REPEATED)):
        bench.order(f"fault {function} {which} return {CODES[name]:#x}")
        outcome = answer(lambda: JOBS[function](bench))
        assert outcome in NAMED | UNREADABLE.get(function, set()) | {"well"}, (name, which)
        bench.recover()
        assert answer(lambda: JOBS[function](bench)) == "well", (name, which)


def test_fault_at_imports(bench: Bench) -> None:
    """The same for C_UnwrapKey and C_DestroyObject, where material is imported and deleted."""
    empty = new_empty_key(bench.kms)
    for name in REPEATED:
        code = CODES[name]
        request = request_to_import(bench.kms, empty)
        bench.order(f"fault C_UnwrapKey * return {code:#x}")
        assert answer(lambda: bench.kms.import_key_material(request)) in NAMED | {"ExpiredImportTokenException"}, name  # noqa: B023
        bench.recover()
        bench.kms.import_key_material(request_to_import(bench.kms, empty))
        bench.order(f"fault C_DestroyObject * return {code:#x}")
        assert answer(lambda: delete_material(bench.kms, empty)) in NAMED | {"well"}, name
        bench.recover()
        bench.kms.operator.maintain()
    assert new_imported_key(bench.kms)


def test_nothing_is_lost(bench: Bench) -> None:
    """After all of it every acknowledged ciphertext opens, and database and token agree once both have been mended."""
    for ciphertext in bench.acknowledged:
        assert unseal(bench.kms, ciphertext) == b"secret"
    for finding in bench.kms.operator.find_differences():
        if finding.kind in MENDABLE:
            bench.kms.operator.mend(finding)
    bench.kms.operator.maintain()
    assert bench.kms.operator.find_differences() == []
    assert not bench.kms.operator.audit.verify().faults


def test_slow_calls_go_on_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slow token, as many encryptions run at once as there are sessions, the others wait, and all succeed."""
    monkeypatch.setattr(bench.kms._core.device.connection.pool, "_wait_seconds", PATIENCE)
    bench.order("fault C_Encrypt * wait")
    use = bench.kms.operator.watch.sessions
    most = use().limit
    with ThreadPoolExecutor(most + 4) as threads:
        calls = [threads.submit(bench.encrypt) for _ in range(most + 4)]
        until(lambda: (shims.waiting(bench.control), use().waiting) == (most, 4), PATIENCE)
        assert shims.waiting(bench.control) == most
        bench.order()
        assert [call.exception() for call in calls] == [None] * (most + 4)
    assert [unseal(bench.kms, ciphertext) for ciphertext in bench.acknowledged[-len(calls) :]] == [b"secret"] * len(
        calls
    )


def test_imported_pair_that_is_not_as_ordered(bench: Bench) -> None:
    """An imported private key to which the token gives another usage is refused, and its intent is cleared at once."""
    key_id = new_key(bench.kms, key_spec="ECC_NIST_P256", key_usage="SIGN_VERIFY", origin="EXTERNAL").key_id
    way = WrappingAlgorithm.RSAES_OAEP_SHA_1
    parameters = bench.kms.get_parameters_for_import(
        GetParametersForImportRequest(key_id=key_id, wrapping_algorithm=way, wrapping_key_spec="RSA_2048")
    )
    private = ec.generate_private_key(ec.SECP256R1())
    material = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    request = ImportKeyMaterialRequest(
        key_id=key_id,
        import_token=parameters.import_token,
        encrypted_key_material=wrapped.wrap(parameters.public_key, way, material),
        expiration_model="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )
    bench.order(shims.ignoring(Attribute.DERIVE, value=True))
    with pytest.raises(TokenUnfitError, match=r"CKA_DERIVE is True instead of False.*so it was destroyed") as caught:
        bench.kms.import_key_material(request)
    assert caught.value.code == "UnsupportedOperationException"
    bench.order()
    assert bench.kms.operator.find_differences() == []
    bench.kms.import_key_material(request)
