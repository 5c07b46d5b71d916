"""Failovers between two members whose replication lags, under load: every acknowledged key that is missing is recorded.

``scripts/failovers`` lets it run for as long as one likes.
"""

import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import second_token
from groups import Group, Modules
from msgspec import Struct, field
from msgspec.structs import replace
from service_sites import NewSite, new_key, seal, unseal
from test_service_ha_group import PATIENCE, Grouped, until

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.session.write_lock import WriteLock
from hsmkms.kms import Kms
from hsmkms.wiring import tokens as token_wiring

FAILOVERS: Final = int(os.environ.get("HSMKMS_TEST_FAILOVERS", "2"))
SEED: Final = int(os.environ.get("HSMKMS_TEST_SEED", "5"))
THREADS: Final = 3
CODES: Final = (0x30, 0x32, 0xB3, 0xE0)
"""What a member answers that fails: an error, removed, session handle invalid, not present."""


class Load(Struct):
    """The acknowledged keys, with a ciphertext of each that was made at once, and the errors of what was refused."""

    sealed: dict[str, bytes] = {}
    refused: Counter[str] = field(default_factory=Counter)

    def run(self, kms: Kms, stopped: threading.Event) -> None:
        """Create keys until it is time to stop."""
        while not stopped.is_set():
            try:
                key_id = new_key(kms).key_id
                self.sealed[key_id] = b""
                self.sealed[key_id] = seal(kms, key_id)
            except HsmKmsError as exc:
                self.refused[f"{exc.code} ({type(exc).__name__})"] += 1
                stopped.wait(0.05)


class Replication:
    """Copies what each member lacks to it, after a while; never an object that is being written."""

    def __init__(self, state_dir: Path, folders: tuple[Path, Path], dice: random.Random) -> None:
        self._lock = WriteLock(state_dir)
        self._folders = folders
        self._dice = dice

    def run(self, stopped: threading.Event) -> None:
        """Copy now and then until it is time to stop."""
        while not stopped.wait(self._dice.uniform(0.05, 0.6)):
            self.copy()

    def copy(self) -> None:
        """Copy what is missing in both directions, and let both modules notice."""
        first, second = self._folders
        with self._lock.held():
            for ours, theirs in ((first, second), (second, first)):
                for each in ours.glob("*.object"):
                    if each.name != "token.object" and not (theirs / each.name).exists():
                        put(each.read_bytes(), theirs / each.name)
                generation = int.from_bytes((theirs / "generation").read_bytes(), "big") + 1000
                put(generation.to_bytes(8, "big"), theirs / "generation")


def put(content: bytes, place: Path) -> None:
    """Write a file at once: whoever opens it sees all of it."""
    draft = place.with_suffix(".draft")
    draft.write_bytes(content)
    draft.rename(place)


@contextmanager
def running(*targets: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run these in threads, each until the event that it is given, for the block."""
    stopped = threading.Event()
    threads = [threading.Thread(target=each, args=(stopped,)) for each in targets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def fail_over(group: Group, load: Load, dice: random.Random) -> None:
    """Let the members fail in turns, each while keys are created on it, and come back once they are on the other."""
    leaving, other = group.first, group.second
    pause = threading.Event()
    for _ in range(FAILOVERS):
        done = len(load.sealed)
        until(lambda: len(load.sealed) > done + THREADS, PATIENCE)  # noqa: B023
        pause.wait(dice.uniform(0.0, 2.0))
        leaving.fail(dice.choice(CODES))
        done = len(load.sealed)
        until(lambda: len(load.sealed) > done + THREADS, PATIENCE)  # noqa: B023
        leaving.come_back()
        leaving, other = other, leaving


def lacking(grouped: Grouped, kms: Kms) -> dict[str, set[str]]:
    """What each member lacks of all that was acknowledged, by its serial."""
    found = {}
    for each in grouped.settings.token.serials:
        with closing(token_wiring.open_member(grouped.settings, grouped.settings.token, each)) as device:
            found[each] = set(kms.operator.missing_on_member(device))
    return found


def test_failovers_with_lagging_replication(new_site: NewSite, group_modules: Modules) -> None:
    """Each key that a member lacks after failovers was made while it could not be asked, and is recorded as such.

    Once the replication is done, no key is missing, and nothing is recorded any more.
    """
    site, dice = new_site(), random.Random(SEED)  # noqa: S311 - it shall be repeatable
    token = replace(site.settings.token, session_wait_seconds=2.0)
    group = Group.of(token, site.folder / "ha", group_modules, behind=True, replication_seconds=30.0)
    grouped = Grouped(site, group)
    (theirs,) = (site.folder / "ha" / "copy" / "tokens").iterdir()
    replication = Replication(site.settings.data_dir, (second_token.token_folder(token), theirs), dice)
    load = Load()

    def create(stopped: threading.Event) -> None:
        load.run(kms, stopped)

    with grouped.opened() as kms, running(replication.run, *[create] * THREADS):
        fail_over(group, load, dice)
    for member in (group.first, group.second):
        member.order()
    with grouped.opened() as kms:
        missing, recorded = lacking(grouped, kms), kms.operator.made_without_members(kms._core.device)
        unexplained = {serial: missing[serial] - set(recorded.get(serial, ())) for serial in missing}
        explained = {serial: sorted(missing[serial] - unexplained[serial]) for serial in missing}
        sys.stdout.write(
            f"seed {SEED}: {len(load.sealed)} keys in {FAILOVERS} failovers, refused {dict(load.refused)}\n"
            f"missing, and recorded as made while the member could not be asked: {explained}\n"
        )
        assert not any(unexplained.values()), unexplained
        replication.copy()
        kms.operator.maintain()
        assert not any(lacking(grouped, kms).values())
        assert kms.operator.made_without_members(kms._core.device) == {}
        for key_id, ciphertext in load.sealed.items():
            assert unseal(kms, ciphertext or seal(kms, key_id)) == b"secret"
