"""Each wrong token in the place of the right one, at each moment: what is refused and reported, and that it ends."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from msgspec import Struct
from service_sites import NewFolder, Site, new_key, seal, start, unseal
from swapping import TokenFolder
from waiting import until

from hsmkms.errors import BindingError, HiddenObjectsError, HsmKmsError
from hsmkms.kms import Kms
from hsmkms.service.audit.seal_notes import SealNotes
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.operator.reconcile import Kind

AWAY = "DependencyTimeoutException"
BACK_SECONDS = 8.0
"""The five seconds of the promise, and what a busy machine adds."""

HIDDEN = "cannot be seen"
INITIALISED = "initialised again under the same serial"
STRANGER = "is not sent the PIN"
OLDER = "is an older copy of itself"


class Wrong(Struct, frozen=True):
    """What a wrong token does: how the start ends (None: it succeeds), its message, and what decryption answers.

    ``old``, ``newest``: the codes of decrypting with a key from before the copy and with the newest; ``create``: that
    of making one; ``reported``: a part of what is reported while it is open, or "".
    """

    name: str
    start: type[HsmKmsError] | None
    said: str
    reported: str
    old: str
    newest: str
    create: str


AGAIN = Wrong("initialised again", HiddenObjectsError, HIDDEN, INITIALISED, AWAY, AWAY, AWAY)
FOREIGN = Wrong("foreign", BindingError, "does not hold its key", STRANGER, AWAY, AWAY, AWAY)
OLDER_COPY = Wrong("older copy", None, "", OLDER, "", "KeyUnavailableException", AWAY)
STANDBY = Wrong("standby without the newest keys", None, "", "", "", "KeyUnavailableException", "")
WRONG = [AGAIN, FOREIGN, OLDER_COPY, STANDBY]


class Ask(Protocol):
    """A process that has the installation open: how each thing ended, as (code or "", answer or sentence)."""

    def __call__(self, word: str, argument: str = "") -> tuple[str, str]:
        """``create``, ``unseal`` with a ciphertext in hex, ``ready``."""


class Scene(Struct):
    """An installation with an old key and a newest one, and the wrong tokens for its place."""

    site: Site
    folder: TokenFolder
    old: bytes
    newest: bytes
    copies: dict[str, Path]

    @classmethod
    def of(cls, site: Site, stranger: Site) -> "Scene":
        """Make it; the settings name no serial, so that a foreign token can be chosen."""
        site = site.varied("hsmkms.toml", token=msgspec.structs.replace(site.settings.token, serial=None))
        folder = TokenFolder.of(site.settings.token)
        with site.open() as kms:
            old = seal(kms, new_key(kms).key_id)
        older = folder.copy(OLDER_COPY.name)
        before = folder.objects()
        with site.open() as kms:
            newest = seal(kms, new_key(kms).key_id)
            made = folder.objects() - before
        copies = {
            OLDER_COPY.name: older,
            STANDBY.name: folder.copy(STANDBY.name, made),
            AGAIN.name: folder.initialised_again(AGAIN.name),
            FOREIGN.name: TokenFolder.of(stranger.settings.token).copy(FOREIGN.name),
        }
        return cls(site, folder, old, newest, copies)

    def swap(self, wrong: Wrong) -> None:
        """The wrong one is in the place of the right one."""
        self.folder.put(self.copies[wrong.name])

    def is_refused(self, wrong: Wrong, ask: Ask) -> None:
        """What the token cannot be trusted with is refused."""
        assert ask("unseal", self.old.hex())[0] == wrong.old
        assert ask("unseal", self.newest.hex())[0] == wrong.newest
        assert ask("create")[0] == wrong.create

    def is_reported(self, wrong: Wrong, ask: Ask) -> None:
        """Assert that it is reported by its name, as a fault or as a warning, once the process has seen it."""
        until(lambda: wrong.reported in ask("ready")[1])  # it may have looked while neither token was in the place
        code, sentence = ask("ready")
        assert code == wrong.old
        assert wrong.reported in sentence
        assert bool(sentence) == bool(wrong.reported)

    def passes(self, ask: Ask) -> None:
        """With the right token in its place all is as before."""
        self.folder.put_back()
        until(lambda: ask("ready") == ("", ""))
        assert ask("unseal", self.old.hex()) == ("", "secret")
        assert ask("unseal", self.newest.hex()) == ("", "secret")
        assert ask("create")[0] == ""
        assert not list(self.site.settings.data_dir.glob("pin-refused*"))


def asking(kms: Kms) -> Ask:
    """This process, asked like another one."""

    def ask(word: str, argument: str = "") -> tuple[str, str]:
        try:
            if word == "create":
                return "", new_key(kms).key_id
            if word == "unseal":
                return "", (unseal(kms, bytes.fromhex(argument)) or b"").decode()
            kms.operator.watch.check_token()
            return "", "; ".join(kms.operator.watch.older_tokens())
        except HsmKmsError as exc:
            return exc.code, str(exc)

    return ask


@contextmanager
def second_process(site: Site) -> Iterator[Ask]:
    """Another process that has the installation open."""
    process = start("ask", site.folder / "hsmkms.toml")
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def answer() -> Any:  # noqa: ANN401 - JSON
        line = stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        return json.loads(line)

    def ask(word: str, argument: str = "") -> tuple[str, str]:
        stdin.write(f"{word} {argument}\n")
        stdin.flush()
        code, message = answer()
        return code, message

    try:
        assert answer() == "open"
        yield ask
    finally:
        process.communicate(timeout=60)


@pytest.fixture
def scene(site: Site, stranger: Site) -> Iterator[Scene]:
    """The installation of these tests."""
    made = Scene.of(site, stranger)
    yield made
    made.folder.put_back()


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: each.name)
def test_at_the_start(scene: Scene, wrong: Wrong) -> None:
    """A wrong token is refused by name before anything is used, or reported from the first moment on."""
    scene.folder.vanish()
    scene.swap(wrong)
    if wrong.start is not None:
        with pytest.raises(wrong.start, match=wrong.said):
            scene.site.open()
        scene.folder.put_back()
    with scene.site.open() as kms:
        ask = asking(kms)
        if wrong.start is None:
            assert len(kms.operator.watch.alarms().older) == (wrong is OLDER_COPY)
            scene.is_reported(wrong, ask)
            scene.is_refused(wrong, ask)
        scene.passes(ask)


@pytest.mark.parametrize("where", ["the same process", "a second worker"])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: each.name)
def test_after_an_outage(scene: Scene, wrong: Wrong, where: str) -> None:
    """A wrong token that returns in the place of the right one is refused and reported, in every process."""
    with ExitStack() as exits:
        if where == "the same process":
            ask = asking(exits.enter_context(scene.site.open()))
        else:
            ask = exits.enter_context(second_process(scene.site))
        assert ask("unseal", scene.newest.hex()) == ("", "secret")
        scene.folder.vanish()
        until(lambda: ask("ready")[0] == AWAY)
        scene.swap(wrong)
        until(lambda: ask("ready")[0] == wrong.old and wrong.reported in ask("ready")[1])
        scene.is_refused(wrong, ask)
        scene.is_reported(wrong, ask)
        scene.passes(ask)


def test_under_living_sessions(scene: Scene) -> None:
    """A token that is changed for another one while its sessions live is noticed by the next call, whatever it is."""
    with scene.site.open() as kms:
        ask = asking(kms)
        assert ask("create")[0] == ""
        scene.folder.vanish()
        scene.swap(AGAIN)
        before = scene.folder.objects()
        code, message = ask("create")
        assert code == AWAY
        assert message.index(HIDDEN) < message.index(INITIALISED)
        assert (kms.operator.watch.sessions().away, kms.operator.watch.sessions().wrong) == (1, 0)
        scene.is_refused(AGAIN, ask)
        assert ask("create")[0] == AWAY
        assert len(scene.folder.objects() - before) <= 2, "what was made before it was noticed, and nothing after"
        scene.passes(ask)
        assert {finding.kind for finding in kms.operator.find_differences()} <= {Kind.UNFINISHED}


@pytest.mark.parametrize("how", ["folder", "objects"])
def test_before_the_first_call(scene: Scene, how: str) -> None:
    """A process without the key of the seals yet calls a token without objects away, and no row altered."""
    with scene.site.open() as kms:
        ask = asking(kms)
        (scene.folder.vanish if how == "folder" else scene.folder.hide_objects)()
        for word, argument in (("unseal", scene.old.hex()), ("create", ""), ("ready", "")):
            assert ask(word, argument)[0] == AWAY, word
        with suppress(HsmKmsError):
            kms.operator.audit.look_after()
        assert kms.operator.watch.alarms().altered == frozenset()
        assert kms.operator.watch.sessions().away == 1
        if how == "objects":
            scene.folder.show_objects()
        scene.passes(ask)


# -- older copies -----------------------------------------------------------------------------------------------------


def test_accepting_an_older_copy(scene: Scene) -> None:
    """The operator's word takes it as it is; then keys are made on it, and other processes see that."""
    with scene.site.open() as other:
        scene.folder.vanish()
        until(lambda: asking(other)("ready")[0] == AWAY)
        scene.swap(OLDER_COPY)
        until(lambda: OLDER in asking(other)("ready")[1])
        with scene.site.open() as kms:
            with pytest.raises(HsmKmsError, match=OLDER):
                kms.operator.audit.check()
            assert [fault.detail for fault in kms.operator.audit.verify().faults if OLDER in fault.detail]
            kms.operator.audit.accept()
            assert asking(kms)("ready") == ("", "")
            assert asking(kms)("create")[0] == ""
            kms.operator.audit.check()
        assert asking(other)("ready") == ("", "")
        assert asking(other)("create")[0] == ""


def test_a_note_that_was_not_written_is_no_older_copy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that were killed between a seal and its note leave a token that is as it should be."""
    with site.open() as kms:
        new_key(kms)
    with monkeypatch.context() as patch, site.open() as kms:
        patch.setattr(SealNotes, "remember", lambda *_: None)
        for _ in range(3):
            new_key(kms)
            kms.operator.audit.log.tidy()
            assert Sealer(kms._core).seal()
    with site.open() as kms:
        assert asking(kms)("ready") == ("", "")
        assert kms.operator.watch.alarms().older == frozenset()
        kms.operator.audit.check()
        new_key(kms)
    with site.open() as kms:
        assert kms.operator.audit.verify().faults == []


def test_rotated_own_key(scene: Scene, new_folder: NewFolder) -> None:
    """A process whose login is lost after another one has rotated the installation's own key proves the new one."""
    del new_folder
    with scene.site.open() as kms, second_process(scene.site) as ask:
        assert ask("ready") == ("", "")
        kms.operator.rotate_installation_key("mac")
        kms.operator.rotate_installation_key("mac", destroy_older=True)
        scene.folder.vanish()
        until(lambda: ask("ready")[0] == AWAY)
        scene.folder.put_back()
        until(lambda: ask("ready") == ("", ""))
        assert ask("unseal", scene.old.hex()) == ("", "secret")
