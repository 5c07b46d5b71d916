"""Check a whole installation through a process of its own, and compare it with the ledgers."""

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from calls import Shift
from ledger import DISABLED, ENABLED, GONE, PENDING_DELETION, BreachError, Key, Ledger
from msgspec.structs import replace

from hsmkms.config import settings as config
from hsmkms.errors import HsmKmsError, NotFoundException
from hsmkms.kms import Kms
from hsmkms.model.aliases import ListAliasesRequest
from hsmkms.model.caller import Caller, local_root
from hsmkms.model.crypto import DecryptRequest, EncryptRequest
from hsmkms.model.deletion import ScheduleKeyDeletionRequest
from hsmkms.model.grants import ListGrantsRequest
from hsmkms.model.keys import DescribeKeyRequest
from hsmkms.model.rotation import ListKeyRotationsRequest
from hsmkms.model.tags import ListResourceTagsRequest
from hsmkms.rules import blob
from hsmkms.service.operator.reconcile import Kind, Mended
from hsmkms.service.operator.sweeper import StepOutcome
from hsmkms.store import audit_files
from hsmkms.store.sqlite.database import FileDatabase
from hsmkms.wiring import core as wiring

LEFT_BY_A_CRASH: Final = {Kind.UNFINISHED, Kind.UNACKNOWLEDGED, Kind.DOOMED}
"""What a process that was killed may leave; anything else that differs is a loss."""


class Inspector:
    """The check of one installation after each round."""

    def __init__(self, configuration: Path, shift: Shift, shared: str, grantee: str, other: str) -> None:
        self._settings = config.load(configuration)
        self._shift = shift
        self._shared = shared
        self._grantee = grantee
        self._other = other
        self._read: dict[Path, int] = {}
        """How far the files of the audit log have been read."""
        self._unseen: set[str] = set()
        self._ivs: set[tuple[str, bytes]] = set()
        """Of all acknowledged ciphertexts, with the material that each was made with."""
        self.mended = 0

    def look(self, ledgers: Iterable[Ledger], *, at_rest: bool) -> None:
        """Raise BreachError unless everything is right. ``at_rest``: no server runs, and what is due may be done."""
        with Kms(wiring.core_of(self._settings, self._shift.now)) as kms:
            self._keys(kms, ledgers, swept=not at_rest)
            self._no_iv_twice(ledgers)
            self._differences(kms)
            if at_rest:
                self._maintain(kms)
                self._keys(kms, ledgers, swept=True)
                left = kms.operator.find_differences()
                if left:
                    raise BreachError(f"reconcile still finds {left}")
            self._audit(kms, ledgers)
            integrity(kms)

    # -- keys -------------------------------------------------------------------------------------------------------

    def _keys(self, kms: Kms, ledgers: Iterable[Ledger], *, swept: bool) -> None:
        """``swept``: what was due has been done."""
        tags = self._tags(kms, self._shared)
        aliases = _aliases(kms)
        for ledger in ledgers:
            for key in ledger.keys:
                self._key(kms, key, swept=swept)
            self._aliases(aliases, ledger)
            for name, known in ledger.shared_tags.items():
                known.seen(tags.get(name), f"tag {name} of the shared key")
            dead = [each for each in ledger.keys if swept and each.state.must(GONE)]
            ledger.keys = [each for each in ledger.keys if each not in dead]
            ledger.buried = (ledger.buried + dead)[-30:]
            for key in ledger.buried:
                self._works(kms, key, works=False)

    def _key(self, kms: Kms, key: Key, *, swept: bool) -> None:
        key.pass_to(self._shift.now())
        state = self._state(kms, key)
        if state == PENDING_DELETION and not swept and GONE in key.state.values:
            state = GONE  # it works no more, and its end is for the sweep
        key.state.seen(state, f"key {key.key_id}")
        self._works(kms, key, works=key.works(self._shift.now()))
        if key.state.must(GONE):
            return
        tags = self._tags(kms, key.key_id)
        for name, known in key.tags.items():
            known.seen(tags.get(name), f"tag {name} of {key.key_id}")
        self._rotations(kms, key)
        self._grants(kms, key)
        self._replica(kms, key)

    def _state(self, kms: Kms, key: Key) -> str:
        try:
            return str(kms.describe_key(DescribeKeyRequest(key_id=key.key_id)).key_metadata.key_state)
        except NotFoundException:
            return GONE

    def _works(self, kms: Kms, key: Key, *, works: bool | None) -> None:
        """Every ciphertext is opened, or none is."""
        if works is None:
            return
        if works:
            kms.encrypt(EncryptRequest(key_id=key.key_id, plaintext=b"as before"))
        for ciphertext in key.sealed:
            try:
                request = DecryptRequest(ciphertext_blob=base64.b64decode(ciphertext.blob))
                opened = kms.decrypt(request).plaintext
            except HsmKmsError as exc:
                if works:
                    raise BreachError(f"{key.key_id} does not open {ciphertext}: {exc.code} {exc}") from exc
                continue
            if not works or opened != ciphertext.plaintext:
                raise BreachError(f"{key.key_id} ({key.state.values}) has opened {ciphertext} as {opened!r}")

    @staticmethod
    def _tags(kms: Kms, key_id: str) -> dict[str, str]:
        tags = kms.list_resource_tags(ListResourceTagsRequest(key_id=key_id)).tags
        return {tag.tag_key: tag.tag_value for tag in tags}

    @staticmethod
    def _rotations(kms: Kms, key: Key) -> None:
        if key.material is not None or not {ENABLED, DISABLED} & set(key.state.values):
            return
        rotations = len(kms.list_key_rotations(ListKeyRotationsRequest(key_id=key.key_id)).rotations)
        if not key.rotations <= rotations <= key.rotations + key.unanswered_rotations:
            raise BreachError(f"{key} has rotated {rotations} times")
        key.unanswered_rotations -= rotations - key.rotations
        key.rotations = rotations

    def _grants(self, kms: Kms, key: Key) -> None:
        grants = kms.list_grants(ListGrantsRequest(key_id=key.key_id)).grants
        by_name = {grant.name: grant.grant_id for grant in grants}
        for name, known in key.grants.items():
            known.seen(name in by_name, f"grant {name} of {key.key_id}")
            if name in by_name:
                key.grant_ids[name] = by_name[name] or ""
        key.grants = {name: known for name, known in key.grants.items() if known.must(True)}
        if key.sealed and key.works(self._shift.now()):
            caller = Caller(principal=self._grantee, region=self._settings.default_region)
            request = DecryptRequest(ciphertext_blob=base64.b64decode(key.sealed[0].blob))
            allowed = _succeeds(lambda: kms.decrypt(request, caller))
            if allowed != bool(key.grants):
                raise BreachError(f"grants of {key.key_id}: {key.grants}, but its grantee may decrypt: {allowed}")

    def _replica(self, kms: Kms, key: Key) -> None:
        if not key.multi_region:
            return
        there = local_root(self._settings.account_id, self._other)
        is_there = _succeeds(lambda: kms.describe_key(DescribeKeyRequest(key_id=key.key_id), there))
        key.replicated.seen(is_there, f"replica of {key.key_id}")
        for each in key.sealed if is_there else ():
            opened = kms.decrypt(DecryptRequest(ciphertext_blob=base64.b64decode(each.blob)), there).plaintext
            if opened != each.plaintext:
                raise BreachError(f"the replica of {key.key_id} has opened {each} as {opened!r}")

    @staticmethod
    def _aliases(stored: dict[str, str | None], ledger: Ledger) -> None:
        gone = {key.key_id for key in ledger.keys if GONE in key.state.values}
        gone |= {dead_key.key_id for dead_key in ledger.buried}
        for name, known in ledger.aliases.items():
            if gone & set(known.values):
                known.may_be(None)  # it went with its key
            known.seen(stored.get(name), f"alias {name}")

    def _no_iv_twice(self, ledgers: Iterable[Ledger]) -> None:
        for ledger in ledgers:
            for sealed in ledger.fresh:
                parsed = blob.parse(base64.b64decode(sealed))
                if (parsed.material_id, parsed.iv) in self._ivs:
                    raise BreachError(f"an IV of {parsed.key_id} was used twice: {sealed}")
                self._ivs.add((parsed.material_id, parsed.iv))
            ledger.fresh = []

    # -- token ------------------------------------------------------------------------------------------------------

    def _differences(self, kms: Kms) -> None:
        """Nothing but what interruptions leave, and that can be mended."""
        for finding in kms.operator.find_differences():
            if finding.kind not in LEFT_BY_A_CRASH:
                raise BreachError(f"reconcile finds {finding}")
            if finding.kind is Kind.DOOMED:
                continue  # maintenance takes it
            self.mended += 1
            if kms.operator.mend(finding) is Mended.ADOPTED:
                kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=finding.key_id, pending_window_in_days=7))

    def _maintain(self, kms: Kms) -> None:
        report = kms.operator.maintain()
        wrong = [step for step in report.steps if step.outcome not in (StepOutcome.DONE, StepOutcome.GONE)]
        if report.busy or report.doubt or wrong:
            raise BreachError(f"maintenance: busy {report.busy}, doubt {report.doubt}, {wrong}")

    # -- audit log --------------------------------------------------------------------------------------------------

    def _audit(self, kms: Kms, ledgers: Iterable[Ledger]) -> None:
        """The log verifies, and has each request that was answered."""
        verdict = kms.operator.audit.verify()
        if verdict.faults or verdict.accepted:
            raise BreachError(f"audit verify: {verdict}")
        self._requests(ledgers, kms.operator.audit.folder)

    def _requests(self, ledgers: Iterable[Ledger], *folders: Path) -> None:
        """Each request that was answered is in the log of one of the folders."""
        for ledger in ledgers:
            self._unseen |= ledger.answered
            ledger.answered = set()
        for folder in folders:
            self._unseen -= set(self._new_request_ids(folder))
        if self._unseen:
            raise BreachError(f"not in the audit log: {sorted(self._unseen)}")

    def _new_request_ids(self, folder: Path) -> Iterable[str]:
        for parts in audit_files.segments(folder).values():
            for part in parts:
                with part.path.open("rb") as file:
                    file.seek(self._read.get(part.path, 0))
                    data = file.read()
                data = data[: data.rfind(b"\n") + 1]
                self._read[part.path] = self._read.get(part.path, 0) + len(data)
                yield from (json.loads(line)["record"].get("requestID") for line in data.splitlines())


def integrity(kms: Kms) -> None:
    """SQLite finds nothing wrong with either file, no row lacks what it refers to, and all are as they were sealed."""
    files = [each for each in (kms._core.store.meta, kms._core.store.log) if isinstance(each, FileDatabase)]
    for database in files:  # PostgreSQL checks foreign keys always
        with database.reading() as conn:
            results = [row[0] for row in conn.exec_driver_sql("PRAGMA integrity_check")]
            broken = list(conn.exec_driver_sql("PRAGMA foreign_key_check"))
        if results != ["ok"] or broken:
            raise BreachError(f"{database.file}: {results}, {broken}")
    faults = kms.operator.audit.verify_rows()
    if faults:
        raise BreachError(f"rows that are not as they were sealed: {faults}")


def _aliases(kms: Kms) -> dict[str, str | None]:
    request, aliases = ListAliasesRequest(limit=100), {}
    while True:
        page = kms.list_aliases(request)
        aliases |= {alias.alias_name: alias.target_key_id for alias in page.aliases}
        if not page.truncated:
            return aliases
        request = replace(request, marker=page.next_marker)


def _succeeds(call: Callable[[], Any]) -> bool:
    try:
        call()
    except HsmKmsError:
        return False
    return True
