"""Clients under whose load processes die: each does random things with keys of its own, and keeps a ledger of them."""

import base64
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import wrapped
from calls import Answer, Caller, Shift, UnansweredError
from ledger import DISABLED, ENABLED, PENDING_DELETION, PENDING_IMPORT, BreachError, Key, Known, Ledger, Sealed

from hsmkms.model.enums import WrappingAlgorithm

MOST_KEYS: Final = 8
MOST_MULTI_REGION: Final = 2
MOST_SEALED: Final = 8
MOST_ROTATIONS: Final = 20
ALGORITHM: Final = WrappingAlgorithm.RSAES_OAEP_SHA_1
BUSY: Final = "ThrottlingException"
AGAIN: Final = "DependencyTimeoutException"
"""What every SDK tries again: a process whose token was slow for a moment says so until it is back."""

TRIES: Final = 200
PAUSE_SECONDS: Final = 0.1

Members = dict[str, Any]


class Actor:
    """One client. ``acts`` says what it does how often; ``other`` is a region for replicas."""

    def __init__(self, ledger: Ledger, shift: Shift, seed: str, shared: str, grantee: str, other: str) -> None:
        self.ledger = ledger
        self._shift = shift
        self._random = random.Random(seed)  # noqa: S311 - it shall be repeatable
        self._shared = shared
        self._grantee = grantee
        self._other = other
        self._number = 0
        self._caller: Caller | None = None
        self._acts: dict[Callable[[], None], int] = {
            self.create: 3,
            self.encrypt: 12,
            self.decrypt: 8,
            self.switch: 4,
            self.rotate: 4,
            self.tag: 3,
            self.tag_shared: 3,
            self.alias: 4,
            self.grant: 4,
            self.bring: 3,
            self.lose: 2,
            self.schedule: 2,
            self.cancel: 1,
            self.replicate: 1,
        }

    def only(self, *names: str) -> None:
        """Leave all other acts out."""
        self._acts = {act: weight for act, weight in self._acts.items() if act.__name__ in names}

    def work(self, caller: Caller, stop: threading.Event) -> None:
        """Repeat until stopped, at least once."""
        self._caller = caller
        while True:
            (act,) = self._random.choices(list(self._acts), list(self._acts.values()))
            act()
            if stop.is_set():
                return

    # -- calling ----------------------------------------------------------------------------------------------------

    def _call(
        self,
        operation: str,
        members: Members,
        done: Callable[[Any], None] = lambda _: None,
        doubt: Callable[[], None] = lambda: None,
        *,
        must: bool | None = None,
    ) -> Answer | None:
        """Call; ``done`` gets the answer, ``doubt`` is called without one. ``must``: whether it has to be done."""
        self.ledger.calls += 1
        try:
            answer = self._answer(operation, members, doubt)
        except UnansweredError:
            self.ledger.unanswered += 1
            doubt()
            return None
        if answer.request_id and answer.code != AGAIN:
            self.ledger.answered.add(answer.request_id)
        if answer.status >= 500 or answer.code == "?" or (must and answer.code not in ("", BUSY)):
            raise BreachError(f"{operation} {members} was answered {answer}")
        if must is False and not answer.code:
            raise BreachError(f"{operation} {members} was done, which must not be")
        if not answer.code:
            done(answer.body)
        return answer

    def _answer(self, operation: str, members: Members, doubt: Callable[[], None]) -> Answer:
        """The answer; asked again while the token is called unavailable: then it may have been done all the same."""
        assert self._caller is not None
        for _ in range(TRIES):
            answer = self._caller.call(operation, members)
            if answer.code != AGAIN:  # it may come from a stand-in, which writes no log
                break
            self.ledger.again += 1
            doubt()
            self._caller.reconnect()
            time.sleep(PAUSE_SECONDS)
        return answer

    def _any(self, fits: Callable[[Key], bool] = lambda _: True) -> Key | None:
        fitting = [key for key in self.ledger.keys if fits(key)]
        return self._random.choice(fitting) if fitting else None

    def _name(self) -> str:
        self._number += 1
        return f"{self.ledger.name}-{self._number}"

    # -- acts -------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """A new key, while there are not too many."""
        keys = self.ledger.keys
        if len(keys) >= MOST_KEYS:
            self.schedule()
            return
        kind = self._random.choice(("AWS_KMS", "AWS_KMS", "EXTERNAL", "multi"))
        if kind == "multi" and sum(each.multi_region for each in keys) < MOST_MULTI_REGION:
            members, key = {"MultiRegion": True}, {"multi_region": True}
        elif kind == "EXTERNAL":
            members, key = {"Origin": kind}, {"material": self._random.randbytes(32)}
        else:
            members, key = {"Description": self._name()}, {}
        state = PENDING_IMPORT if kind == "EXTERNAL" else ENABLED
        self._call(
            "CreateKey",
            members,
            lambda body: keys.append(Key(body["KeyMetadata"]["KeyId"], Known(state), **key)),
            must=True,
        )

    def encrypt(self) -> None:
        """A ciphertext by any key."""
        key = self._any()
        if key is None:
            return
        plaintext = f"{self._name()} of {key.key_id}".encode()
        works = key.works(self._shift.now())

        def keep(body: Any) -> None:  # noqa: ANN401 - JSON
            if len(key.sealed) >= MOST_SEALED:
                key.sealed.pop(self._random.randrange(len(key.sealed)))
            key.sealed.append(Sealed(body["CiphertextBlob"], plaintext))
            self.ledger.fresh.append(body["CiphertextBlob"])

        text = base64.b64encode(plaintext).decode()
        self._call("Encrypt", {"KeyId": key.key_id, "Plaintext": text}, keep, must=works)

    def decrypt(self) -> None:
        """An older ciphertext, also of keys that are gone."""
        keys = [each for each in (*self.ledger.keys, *self.ledger.buried) if each.sealed]
        if not keys:
            return
        key = self._random.choice(keys)
        sealed = self._random.choice(key.sealed)

        def compare(body: Any) -> None:  # noqa: ANN401 - JSON
            if base64.b64decode(body["Plaintext"]) != sealed.plaintext:
                raise BreachError(f"{sealed} was opened to {body}")

        self._call("Decrypt", {"CiphertextBlob": sealed.blob}, compare, must=key.works(self._shift.now()))

    def switch(self) -> None:
        """Disable or enable a key."""
        key = self._any(lambda each: bool({ENABLED, DISABLED} & set(each.state.values)))
        if key is None:
            return
        state = self._random.choice((ENABLED, ENABLED, DISABLED))
        operation = "EnableKey" if state == ENABLED else "DisableKey"
        self._call(operation, {"KeyId": key.key_id}, lambda _: key.state.is_now(state), lambda: key.state.may_be(state))

    def rotate(self) -> None:
        """A new backing key."""
        key = self._any(lambda each: each.material is None and each.rotations < MOST_ROTATIONS)
        if key is None or key.works(self._shift.now()) is not True:
            return

        def done(_: Any) -> None:  # noqa: ANN401 - JSON
            key.rotations += 1

        def doubt() -> None:
            key.unanswered_rotations += 1

        answer = self._call("RotateKeyOnDemand", {"KeyId": key.key_id}, done, doubt)
        # One that was interrupted is in the way of the next until it is recovered.
        if answer is not None and answer.code not in ("", BUSY, "ConflictException", "LimitExceededException"):
            raise BreachError(f"RotateKeyOnDemand {key.key_id} was answered {answer}")

    def tag(self) -> None:
        """A tag of a key of its own."""
        key = self._any(lambda each: each.state.values[0] in (ENABLED, DISABLED))
        if key is not None:
            self._tag(key.key_id, key.tags, self._random.choice("abc"))

    def tag_shared(self) -> None:
        """A tag of the key that all actors change."""
        self._tag(self._shared, self.ledger.shared_tags, f"{self.ledger.name}-{self._random.choice('ab')}")

    def _tag(self, key_id: str, tags: dict[str, Known[str | None]], name: str) -> None:
        value = self._name()
        known = tags.setdefault(name, Known[str | None](None))
        self._call(
            "TagResource",
            {"KeyId": key_id, "Tags": [{"TagKey": name, "TagValue": value}]},
            lambda _: known.is_now(value),
            lambda: known.may_be(value),
        )

    def alias(self) -> None:
        """Make, move or delete an alias."""
        name = f"alias/{self.ledger.name}-{self._random.randrange(4)}"
        known = self.ledger.aliases.setdefault(name, Known[str | None](None))
        key = self._any(lambda each: each.state.values == [ENABLED])
        if known.values[0] is not None and self._random.random() < 0.3:
            operation, members, target = "DeleteAlias", {"AliasName": name}, None
        elif key is None:
            return
        else:
            operation = "CreateAlias" if known.values[0] is None else "UpdateAlias"
            members, target = {"AliasName": name, "TargetKeyId": key.key_id}, key.key_id
        self._call(operation, members, lambda _: known.is_now(target), lambda: known.may_be(target))

    def grant(self) -> None:
        """Grant a user the right to decrypt, or revoke it."""
        key = self._any(lambda each: each.state.values == [ENABLED])
        if key is None:
            return
        if key.grant_ids and self._random.random() < 0.5:
            name = self._random.choice(list(key.grant_ids))
            known = key.grants[name]
            members = {"KeyId": key.key_id, "GrantId": key.grant_ids.pop(name)}
            self._call("RevokeGrant", members, lambda _: known.is_now(False), lambda: known.may_be(False))
            return
        if len(key.grants) >= 6:
            return
        name = self._name()
        known = key.grants[name] = Known(False)

        def done(body: Any) -> None:  # noqa: ANN401 - JSON
            known.is_now(True)
            key.grant_ids[name] = body["GrantId"]

        members = {"KeyId": key.key_id, "GranteePrincipal": self._grantee, "Operations": ["Decrypt"], "Name": name}
        self._call("CreateGrant", members, done, lambda: known.may_be(True))

    def bring(self) -> None:
        """Import the material of a key."""
        key = self._any(lambda each: each.material is not None and each.state.must(PENDING_IMPORT))
        if key is None:
            return
        wanted = {"KeyId": key.key_id, "WrappingAlgorithm": ALGORITHM, "WrappingKeySpec": "RSA_2048"}
        parameters = self._call("GetParametersForImport", wanted)
        if parameters is None or parameters.code:
            return
        lasting = self._random.choice((None, timedelta(seconds=4), timedelta(days=1)))
        valid_to = None if lasting is None else self._shift.now() + lasting
        public_key = base64.b64decode(parameters.body["PublicKey"])
        material = wrapped.wrap(public_key, ALGORITHM, key.material or b"")
        members = {
            "KeyId": key.key_id,
            "ImportToken": parameters.body["ImportToken"],
            "EncryptedKeyMaterial": base64.b64encode(material).decode(),
            "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE" if valid_to is None else "KEY_MATERIAL_EXPIRES",
        } | ({} if valid_to is None else {"ValidTo": valid_to.timestamp()})

        def done(_: Any) -> None:  # noqa: ANN401 - JSON
            key.state.is_now(ENABLED)
            key.valid_to = valid_to

        def doubt() -> None:
            key.state.may_be(ENABLED)
            key.valid_to = valid_to

        self._call("ImportKeyMaterial", members, done, doubt)

    def lose(self) -> None:
        """Delete imported material."""
        key = self._any(lambda each: each.material is not None and bool({ENABLED, DISABLED} & set(each.state.values)))
        if key is None:
            return

        def done(_: Any) -> None:  # noqa: ANN401 - JSON
            key.state.is_now(PENDING_IMPORT)
            key.valid_to = None

        members = {"KeyId": key.key_id}
        self._call("DeleteImportedKeyMaterial", members, done, lambda: key.state.may_be(PENDING_IMPORT))

    def schedule(self) -> None:
        """Schedule the deletion of a key. Those with replicas would have to wait for them, and stay."""
        key = self._any(lambda each: not each.multi_region and PENDING_DELETION not in each.state.values)
        if key is None:
            return
        self._call(
            "ScheduleKeyDeletion",
            {"KeyId": key.key_id, "PendingWindowInDays": 7},
            lambda _: key.state.is_now(PENDING_DELETION),
            lambda: key.state.may_be(PENDING_DELETION),
        )

    def cancel(self) -> None:
        """Think better of it."""
        key = self._any(lambda each: PENDING_DELETION in each.state.values and each.material is None)
        if key is None:
            return
        self._call(
            "CancelKeyDeletion",
            {"KeyId": key.key_id},
            lambda _: key.state.is_now(DISABLED),
            lambda: key.state.may_be(DISABLED),
        )

    def replicate(self) -> None:
        """A replica in the other region."""
        key = self._any(lambda each: each.multi_region and each.replicated.must(False))
        if key is None or key.works(self._shift.now()) is not True:
            return
        self._call(
            "ReplicateKey",
            {"KeyId": key.key_id, "ReplicaRegion": self._other},
            lambda _: key.replicated.is_now(True),
            lambda: key.replicated.may_be(True),
        )
