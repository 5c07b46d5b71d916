"""Login: at most one refused PIN, whatever asks for it and however many processes start at once."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import devices
import pytest
import spylog
from devices import MakeToken, Token, new_key, permit
from pkcs11.constants import TokenFlag
from waiting import until

from hsmkms.errors import ClosedError, ConfigurationError, PinError, TokenUnavailableError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session.login import LoginGate
from hsmkms.hsm.session.pin_marks import PinMark, PinMarks
from hsmkms.hsm.session.token_choice import TokenChoice, choose
from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct
from hsmkms.secret import PinOrigin, Secret

WRONG = "not the horse"


class Reader:
    """A PIN source that counts how often it is read."""

    def __init__(self, *pins: str) -> None:
        self.pins = list(pins)
        self.asked = 0

    def __call__(self) -> str:
        """Return the next PIN, the last one repeatedly."""
        self.asked += 1
        return self.pins.pop(0) if len(self.pins) > 1 else self.pins[0]


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("pin", [WRONG, "", "1", "x" * 300, "pässwörter"])
def test_refused_pin_is_not_tried_again(token: Token, pin: str) -> None:
    """A refusal of any kind leaves a mark; then not even the right PIN is read."""
    with pytest.raises(PinError, match="refused the PIN"):
        TokenDevice.open(token.settings(), Reader(pin))
    right = Reader(token.pin)
    with pytest.raises(PinError, match=r"hsmkms doctor --retry-pin"):
        TokenDevice.open(token.settings(), right)
    assert right.asked == 0


def test_mark_contains_nothing_of_the_pin(token: Token) -> None:
    """The mark names token and time; neither mark nor error contains anything of the PIN; both files are private."""
    with pytest.raises(PinError) as caught:
        TokenDevice.open(token.settings(), Reader(WRONG))
    mark = token.folder / "pin-refused.json"
    contents = json.loads(mark.read_text())
    known = {"label", "serial", "refused_at", "source", "version", "comparable", "unsettled", "members", "alone"}
    known |= {"node", "changed", "published"}
    assert contents.keys() == known
    assert (contents["label"], contents["serial"], contents["source"]) == (token.label, token.serial, "")
    assert WRONG not in mark.read_text()
    assert WRONG not in str(caught.value)
    assert mode(mark) == 0o600
    assert mode(token.folder / "login.lock") == 0o600


def test_right_pin_closes_the_mark(token: Token) -> None:
    """A PIN that a person confirms is tried despite the mark; once the token accepts it, every login is allowed."""
    gate = LoginGate(token.folder)
    with pytest.raises(PinError):
        TokenDevice.open(token.settings(), Reader(WRONG))
    TokenDevice.open(token.settings(), lambda: Secret(token.pin, insisted=True), accept_final_try=True).close()
    assert gate.mark() is None
    token.open().close()


def from_file(pin: str, version: str) -> Secret:
    """Return a PIN read from a file in that state."""
    return Secret(pin, PinOrigin(name="the PIN file /pin", version=version, comparable=True))


def from_variable(pin: str, process: str) -> Secret:
    """Return a PIN of an environment variable, as a process and its children have it."""
    return Secret(pin, PinOrigin(name="the environment variable PIN", version=process))


@pytest.mark.parametrize(
    ("refused", "again", "message"),
    [
        (from_file(WRONG, "1"), from_file(WRONG, "1"), "the PIN file /pin has not changed since the token"),
        (from_file(WRONG, "1"), from_file(WRONG, "2"), "keeps nothing of it to compare with"),
        (from_variable(WRONG, "1"), from_file(WRONG, "1"), "keeps nothing of it to compare with"),
        (from_variable(WRONG, "1"), from_variable(WRONG, "2"), "keeps nothing of it to compare with"),
        (Secret(WRONG), from_file(WRONG, "1"), "keeps nothing of it to compare with"),
        (from_file(WRONG, "1"), Secret(WRONG), "keeps nothing of it to compare with"),
    ],
    ids=["file", "changed", "other", "variable", "unknown", "unknown-again"],
)
def test_refused_pin_is_not_retried(token: Token, refused: Secret, again: Secret, message: str) -> None:
    """Even under --retry-pin a PIN that is or may be the refused one is not sent, unless the operator confirms it."""
    mark = token.folder / "pin-refused.json"
    with pytest.raises(PinError, match="refused the PIN"):
        TokenDevice.open(token.settings(), lambda: refused)
    written = mark.stat().st_mtime_ns
    with pytest.raises(PinError, match=message):
        TokenDevice.open(token.settings(), lambda: again, accept_final_try=True)
    assert mark.stat().st_mtime_ns == written
    insisted = Secret(again.reveal(), again.origin, insisted=True)
    with pytest.raises(PinError, match="refused the PIN"):
        TokenDevice.open(token.settings(), lambda: insisted, accept_final_try=True)
    assert mark.stat().st_mtime_ns != written


def test_typed_pin_is_retried(token: Token) -> None:
    """A PIN that a person has just typed is tried under --retry-pin, and never before."""
    typed = Secret(token.pin, PinOrigin(name="the answer at the prompt", version="2", typed=True))
    with pytest.raises(PinError, match="refused the PIN"):
        TokenDevice.open(token.settings(), lambda: from_file(WRONG, "1"))
    with pytest.raises(PinError, match="correct the PIN, then run"):
        TokenDevice.open(token.settings(), lambda: typed)
    TokenDevice.open(token.settings(), lambda: typed, accept_final_try=True).close()
    TokenDevice.open(token.settings(), lambda: from_file(token.pin, "2")).close()


class Planted:
    """Marks of other nodes that somebody wrote into their database."""

    def __init__(self, *marks: PinMark) -> None:
        self._marks = marks

    def pending(self) -> list[PinMark]:
        """These marks."""
        return list(self._marks)

    def publish(self, mark: PinMark) -> bool:
        """Leave none."""
        return mark not in self._marks

    def settle(self, serials: frozenset[str]) -> None:
        """Remove none."""


def test_mark_of_another_node_that_names_no_token(tmp_path: Path) -> None:
    """It is not taken for a file that cannot be read, which counts for all tokens and comes back after each retry."""
    planted = [PinMark(label="x", serial=serial, refused_at="", node="x", published=True) for serial in ("?", "1")]
    marks = PinMarks(tmp_path, shared=Planted(*planted))
    marks.exchange()
    assert marks.open_mark("2") is None
    assert marks.open_mark("1") == planted[1]


def test_refused_pin_in_the_memory_of_a_process(token: Token) -> None:
    """A process that still has the refused PIN when the token has accepted another one does not send it again."""
    gate = LoginGate(token.folder)
    with pytest.raises(PinError, match="refused the PIN"):
        TokenDevice.open(token.settings(), lambda: from_variable(WRONG, "old"))
    right = from_variable(token.pin, "new")
    insisted = Secret(token.pin, right.origin, insisted=True)
    TokenDevice.open(token.settings(), lambda: insisted, accept_final_try=True).close()
    with pytest.raises(PinError, match="may still give the PIN that was refused"):
        TokenDevice.open(token.settings(), lambda: from_variable(WRONG, "old"))
    assert gate.mark() is None
    TokenDevice.open(token.settings(), lambda: right).close()


def test_refused_pin_that_is_taken_later(token: Token) -> None:
    """A source whose PIN the token finally accepts is no longer listed as refused."""
    with pytest.raises(PinError, match="refused the PIN"):
        TokenDevice.open(token.settings(), lambda: from_file(WRONG, "1"))
    insisted = Secret(token.pin, from_file(token.pin, "1").origin, insisted=True)
    TokenDevice.open(token.settings(), lambda: insisted, accept_final_try=True).close()
    TokenDevice.open(token.settings(), lambda: from_file(token.pin, "1")).close()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"text"', "null"])
def test_unreadable_mark_counts(token: Token, content: str) -> None:
    """A mark that was truncated by a crash or a full disk still prevents every attempt."""
    (token.folder / "pin-refused.json").write_text(content)
    reader = Reader(token.pin)
    with pytest.raises(PinError):
        TokenDevice.open(token.settings(), reader)
    assert reader.asked == 0


def test_no_second_login_on_the_token(token: Token, spy_path: Path, programs: Path) -> None:
    """The spy logs one C_Login with the wrong PIN, and none in the next process."""
    counts = []
    for pin in (WRONG, token.pin):
        log = token.folder / f"{len(counts)}.log"
        process = devices.start(programs / "try_pin.py", token.spied(spy_path, log), pin=pin)
        process.stdin.write("go\n")
        assert devices.finish(process) == "PinError"
        counts.append(len(spylog.named(spylog.read(log), "C_Login")))
    assert counts == [1, 0]


def test_many_processes_try_one_pin(token: Token, spy_path: Path, programs: Path) -> None:
    """Six processes started at once with a wrong PIN make exactly one C_Login between them."""
    logs = [token.folder / f"{number}.log" for number in range(6)]
    spied = [token.spied(spy_path, log) for log in logs]
    assert devices.run_together(programs / "try_pin.py", spied, pin=WRONG) == ["PinError"] * 6
    assert sum(len(spylog.named(spylog.read(log), "C_Login")) for log in logs) == 1


def test_right_pin_leaves_no_mark(token: Token) -> None:
    """A successful login writes no mark."""
    token.open().close()
    assert LoginGate(token.folder).mark() is None


def test_failing_pin_source(token: Token) -> None:
    """A failing PIN source is no refusal: it leaves no mark."""

    def broken() -> str:
        raise PinError("the PIN file is empty")

    with pytest.raises(PinError, match="empty"):
        TokenDevice.open(token.settings(), broken)
    token.open().close()


def test_unwritable_state_folder(token: Token) -> None:
    """If no mark could be written, no PIN is read."""
    reader = Reader(token.pin)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        TokenDevice.open(token.settings(state_dir=token.folder / "missing"), reader)
    assert reader.asked == 0


def test_token_without_user_pin(make_token: MakeToken) -> None:
    """A token whose user PIN was never set is refused before a PIN is read."""
    token = make_token()
    module = token.load()
    free = next(slot for slot in module.slots() if not slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED)
    assert module.cryptoki.init_token(free.slot_id, "12345678", "bare") == 0
    module.release()
    reader = Reader(token.pin)
    with pytest.raises(PinError, match="has no user PIN yet"):
        TokenDevice.open(token.settings(choice=TokenChoice(label="bare")), reader)
    assert reader.asked == 0


def test_second_opening_shares_the_login(device: TokenDevice, token: Token) -> None:
    """A token that is open in this process is shared without another login, until its last user closes it."""
    reader = Reader(WRONG)
    second = TokenDevice.open(token.settings(), reader)
    assert second is device
    assert reader.asked == 0
    second.close()
    key = new_key(device)
    device.close()
    with pytest.raises(ClosedError):
        device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x", b"")
    device.close()


def test_login_of_others_is_shared(token: Token) -> None:
    """If another part of the process is logged in already, its login is used and kept."""
    module = token.load()
    others = choose(module, token.settings().choice).open(rw=True, user_pin=token.pin)
    device = token.open()
    assert device.keys.holds(new_key(device))
    device.close()
    assert module.cryptoki.logged_in(others.handle)


def test_lost_login_reads_the_pin_once(token: Token, lose: Callable[[TokenDevice], None]) -> None:
    """After a lost login the PIN is read and tried once; if it is refused then, never again."""
    reader = Reader(token.pin, token.pin, WRONG)
    device = TokenDevice.open(token.settings(), reader)
    key = new_key(device)
    leave = permit(Operation.ENCRYPT, key)
    lose(device)
    device.ciphers.encrypt(leave, key, b"x", b"")
    assert reader.asked == 2
    lose(device)
    for _ in range(3):
        with pytest.raises(PinError):
            device.ciphers.encrypt(leave, key, b"x", b"")
    assert reader.asked == 3


# -- a PIN that is changed ----------------------------------------------------------------------------------------


def test_login_after_a_change_of_the_pin(token: Token, lose: Callable[[TokenDevice], None]) -> None:
    """A process that is logged in continues after a change, and reads the new PIN when its login is lost later."""
    settings, reader = token.settings(), Reader(token.pin, token.new_pin)
    device = TokenDevice.open(settings, reader)
    key = new_key(device)
    gate = LoginGate(settings.state_dir)
    with gate.exclusive():
        device.connection.change_pin(permit(OperatorAct.CHANGE_PIN), token.pin, token.new_pin)
        gate.note_change()
    assert device.keys.holds(key)
    assert reader.asked == 1
    lose(device)
    until(lambda: succeeds(lambda: device.keys.holds(key)), 10)
    device.close()
    assert gate.mark() is None
    with pytest.raises(PinError):
        TokenDevice.open(settings, Reader(token.pin))


def test_login_that_is_lost_before_a_change(token: Token, lose: Callable[[TokenDevice], None]) -> None:
    """A process that changes the PIN under the login lock logs in again under it, instead of a deadlock."""
    settings = token.settings()
    device = TokenDevice.open(settings, Reader(token.pin))
    lose(device)
    gate = LoginGate(settings.state_dir)
    with gate.exclusive(), gate.mark_at_hand(token.label, device.profile.serial, None) as leave_mark:
        device.connection.change_pin(permit(OperatorAct.CHANGE_PIN), token.pin, token.new_pin)
        leave_mark()
    device.close()
    assert gate.mark() is not None


def test_pin_that_the_token_does_not_take(token: Token) -> None:
    """A new PIN that is too short, or a wrong present one, changes nothing, and leaves no mark."""
    settings = token.settings()
    device = TokenDevice.open(settings, Reader(token.pin))
    for old, new in ((token.pin, "x"), (WRONG, token.new_pin)):
        with pytest.raises(PinError):
            device.connection.change_pin(permit(OperatorAct.CHANGE_PIN), old, new)
    device.close()
    TokenDevice.open(settings, Reader(token.pin)).close()


def succeeds(act: Callable[[], object]) -> bool:
    """Return True if the call does not raise that the token is away."""
    try:
        act()
    except TokenUnavailableError:
        return False
    return True
