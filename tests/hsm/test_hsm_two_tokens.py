"""Two tokens of one module: each reconnects by itself, and the module is reinitialised with both closed."""

import ctypes
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import PIN, MakeToken, SoftHsm, new_key, permit
from msgspec import Struct
from msgspec.structs import replace
from waiting import until

from hsmkms.errors import HsmKmsError, ObjectLostError, TokenUnavailableError, WrongTokenError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session.identity import Candidate, Proof
from hsmkms.hsm.session.login import LoginGate
from hsmkms.hsm.session.module import RenewalPace
from hsmkms.hsm.session.token_choice import TokenChoice
from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct

CHALLENGE = b"which one are you?"
BACK_SECONDS = 15.0


class Known:
    """The identity of a token with an HMAC key that was created for it."""

    def __init__(self, device: TokenDevice) -> None:
        self.cka_id = b"identity" + device.profile.serial.encode()[:8]
        shown = permit(OperatorAct.INITIALISE, self.cka_id)
        device.own.generate_mac_key(shown, self.cka_id, "identity")
        self.response = device.own.mac(shown, self.cka_id, CHALLENGE)

    def admit(self, serial: str) -> None:
        """Accept any serial."""

    def prove(self, candidate: Candidate) -> Proof:
        """Return the token's HMAC of the challenge."""
        try:
            made = candidate.mac(permit(OperatorAct.OPEN, self.cka_id), self.cka_id, CHALLENGE)
        except ObjectLostError:
            made = b""
        if made != self.response:
            raise WrongTokenError("another token answers")
        return Proof(self.cka_id, CHALLENGE, self.response)


class Side(Struct):
    """One of the two tokens, open, with a key that was used, and the PIN that is read for it."""

    device: TokenDevice
    key: bytes
    pin: list[str]
    folder: Path

    def works(self) -> bool:
        """Return whether an encryption and its decryption succeed."""
        iv, body = self.device.ciphers.encrypt(permit(Operation.ENCRYPT, self.key), self.key, b"x", b"")
        return self.device.ciphers.decrypt(permit(Operation.DECRYPT, self.key), self.key, iv, body, b"") == b"x"

    def is_back(self) -> bool:
        """Return the same; False if a call fails."""
        try:
            return self.works()
        except TokenUnavailableError:
            return False

    def lose_login(self) -> None:
        """Log this process out of the token without hsmkms's knowledge."""
        library = ctypes.CDLL(str(self.device.connection.module.path))
        assert library.C_Logout(ctypes.c_ulong(self.device.connection.login_handle)) == 0


@pytest.fixture
def sides(make_token: MakeToken) -> Iterator[tuple[Side, Side]]:
    """Yield two tokens of one SoftHSM."""
    token = make_token()
    tokens = token.folder / "tokens"
    (first,) = tokens.iterdir()
    token.add_token("the other one")
    (second,) = set(tokens.iterdir()) - {first}
    made = _open(token, token.label, first), _open(token, "the other one", second)
    yield made
    for each in made:
        each.device.close()


def _open(token: SoftHsm, label: str, folder: Path) -> Side:
    pin = [PIN]
    settings = replace(token.settings(), choice=TokenChoice(label=label), session_wait_seconds=5.0)
    device = TokenDevice.open(settings, lambda: pin[0])
    device.connection.require(Known(device), lambda _shown: None)
    side = Side(device, new_key(device), pin, folder)
    assert side.works()
    return side


@pytest.mark.parametrize("both", [True, False], ids=["both lose their login", "one loses its login"])
def test_another_pin_and_a_lost_login(sides: tuple[Side, Side], *, both: bool) -> None:
    """After a PIN was changed and the login lost, both tokens reconnect without a restart, and no PIN is refused."""
    first, second = sides
    first.device.connection.change_pin(permit(OperatorAct.CHANGE_PIN), PIN, "another PIN")
    first.pin[0] = "another PIN"
    LoginGate(first.device.connection.settings.state_dir).note_change()
    first.lose_login()
    if both:
        second.lose_login()
    until(first.is_back, BACK_SECONDS)
    until(second.is_back, BACK_SECONDS)
    assert new_key(first.device)
    assert new_key(second.device)
    assert not list(first.device.connection.settings.state_dir.glob("pin-refused*"))


def test_another_pin_before_the_second_is_opened(make_token: MakeToken) -> None:
    """After a noted change of its PIN a second token of the module is opened, and the first keeps working."""
    token = make_token()
    (first_folder,) = (token.folder / "tokens").iterdir()
    token.add_token("the other one")
    first = _open(token, token.label, first_folder)
    LoginGate(token.folder).note_change()
    second = _open(token, "the other one", first_folder)
    assert first.works()
    assert second.works()
    first.device.close()
    second.device.close()


def test_one_is_away_while_the_other_works(sides: tuple[Side, Side]) -> None:
    """While one token is away all calls to the other succeed, and it reconnects once its objects are back."""
    first, second = sides
    stopped, faults, done = threading.Event(), list[HsmKmsError](), [0]

    def load() -> None:
        while not stopped.is_set():
            try:
                done[0] += second.works()
            except HsmKmsError as exc:
                faults.append(exc)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    aside = first.folder.parent.parent / "aside"
    first.folder.rename(aside)
    until(lambda: not first.is_back() and first.device.connection.is_away, BACK_SECONDS)
    time.sleep(1.0)  # it is looked for meanwhile
    aside.rename(first.folder)
    until(first.is_back, BACK_SECONDS)
    before = done[0]
    until(lambda: done[0] > before, BACK_SECONDS)
    stopped.set()
    for thread in threads:
        thread.join(BACK_SECONDS)
    assert faults == []
    assert second.device.connection.sessions().outages == 0
    assert new_key(first.device)


def test_the_pace_of_renewals() -> None:
    """The pauses between reinitialisations for a token that stays away grow, while other tokens are in use."""
    pace = RenewalPace()
    now, due = 0.0, list[float]()
    while now < 200.0:
        if pace.is_due(now):
            due.append(now)
        now += 0.5
    assert due == [0.0, 2.0, 6.0, 14.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0]
