"""GetKeyLastUsage: what counts, who sees it, and how old it may be. Source: AWS KMS API Reference."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace

import pytest
from lifecycle import described, disable, enable, epoch, schedule
from service_sites import REGION, START, Site, StoppedClock, new_alias, new_key, run, seal, unseal
from sqlalchemy import update

from hsmkms.errors import HsmKmsError, NotFoundException, StoreError
from hsmkms.kms import Kms
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from hsmkms.model.deletion import GetKeyLastUsageRequest, GetKeyLastUsageResponse, KeyLastUsage
from hsmkms.store import usage
from hsmkms.store.log_schema import use_tracking

Act = Callable[[Kms, str], object]
NEVER = KeyLastUsage()


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The seconds by which the book of uses decides when to write: move ``now``."""
    moved = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("hsmkms.service.runtime.last_use.time", SimpleNamespace(monotonic=lambda: moved.now))
    return moved


def last_usage_response(kms: Kms, key_id: str) -> GetKeyLastUsageResponse:
    """The response of GetKeyLastUsage."""
    return kms.get_key_last_usage(GetKeyLastUsageRequest(key_id=key_id))


def last_use(kms: Kms, key_id: str) -> KeyLastUsage:
    """The last use of a key."""
    return last_usage_response(kms, key_id).key_last_usage


def stored_use(kms: Kms, key_id: str) -> str | None:
    """The last operation as all processes can read it now."""
    use = usage.fetch(kms._core.store, key_id, REGION)
    return use.operation if use else None


USES: dict[str, Callable[[Kms, str, Caller], object]] = {
    "Encrypt": lambda kms, key_id, caller: kms.encrypt(EncryptRequest(key_id=key_id, plaintext=b"p"), caller),
    "Decrypt": lambda kms, key_id, caller: kms.decrypt(DecryptRequest(ciphertext_blob=seal(kms, key_id)), caller),
    "GenerateDataKey": lambda kms, key_id, caller: kms.generate_data_key(
        GenerateDataKeyRequest(key_id=key_id, number_of_bytes=8), caller
    ),
    "GenerateDataKeyWithoutPlaintext": lambda kms, key_id, caller: kms.generate_data_key_without_plaintext(
        GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, number_of_bytes=8), caller
    ),
}


def test_never_used(kms: Kms, clock: StoppedClock) -> None:
    """An unused key has its creation date and the date since when uses are tracked, and nothing more."""
    made = new_key(kms)
    clock.advance(days=3)
    answer = last_usage_response(kms, made.arn)
    assert (answer.key_id, answer.key_last_usage, answer.key_creation_date) == (made.arn, NEVER, START)
    assert answer.tracking_start_date >= START


@pytest.mark.parametrize("operation", USES)
def test_what_counts(kms: Kms, clock: StoppedClock, operation: str) -> None:
    """Every cryptographic operation counts, with its instant and the id of its request; only for its key."""
    key_id, other = new_key(kms).key_id, new_key(kms).key_id
    clock.advance(hours=5)
    caller = kms.caller(REGION)
    USES[operation](kms, key_id, caller)
    clock.advance(hours=5)
    use = last_use(kms, key_id)
    assert (use.operation, use.timestamp) == (operation, START + timedelta(hours=5))
    assert use.kms_request_id == caller.request_id
    assert last_use(kms, other) == NEVER


def test_re_encrypt_counts_for_both(kms: Kms, clock: StoppedClock) -> None:
    """ReEncrypt is a use of the key that it leaves and of the key that it goes to."""
    source, target = new_key(kms).key_id, new_key(kms).key_id
    sealed = seal(kms, source)
    clock.advance(hours=1)
    kms.re_encrypt(ReEncryptRequest(ciphertext_blob=sealed, destination_key_id=target))
    for key_id in (source, target):
        use = last_use(kms, key_id)
        assert (use.operation, use.timestamp) == ("ReEncrypt", clock.now)


def test_what_does_not_count(kms: Kms, clock: StoppedClock) -> None:
    """Dry runs, refused and failed requests, and looking at a key are no use of it."""
    key_id, other = new_key(kms).key_id, new_key(kms).key_id
    sealed, foreign = seal(kms, key_id), seal(kms, other)
    altered = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    use, other_use = last_use(kms, key_id), last_use(kms, other)
    clock.advance(hours=1)
    acts: tuple[Callable[[], object], ...] = (
        lambda: seal(kms, key_id, dry_run=True),
        lambda: unseal(kms, sealed, dry_run=True),
        lambda: kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, number_of_bytes=8, dry_run=True)),
        lambda: kms.re_encrypt(ReEncryptRequest(ciphertext_blob=sealed, destination_key_id=other, dry_run=True)),
        lambda: unseal(kms, altered),
        lambda: unseal(kms, sealed, encryption_context={"wrong": "1"}),
        lambda: unseal(kms, foreign, key_id=key_id),
        lambda: kms.re_encrypt(ReEncryptRequest(ciphertext_blob=altered, destination_key_id=other)),
        lambda: seal(kms, key_id, encryption_algorithm="RSAES_OAEP_SHA_1"),
        lambda: described(kms, key_id),
    )
    for act in acts:
        with suppress(HsmKmsError):
            act()
    disable(kms, key_id)
    with suppress(HsmKmsError):
        seal(kms, key_id)
    assert (last_use(kms, key_id), last_use(kms, other)) == (use, other_use)


def test_failed_re_encryption_counts_for_neither(kms: Kms) -> None:
    """A ReEncrypt whose target fails is no use of its source."""
    source, target = new_key(kms).key_id, new_key(kms).key_id
    sealed = seal(kms, source)
    disable(kms, target)
    with pytest.raises(HsmKmsError):
        kms.re_encrypt(ReEncryptRequest(ciphertext_blob=sealed, destination_key_id=target))
    assert (last_use(kms, source).operation, last_use(kms, target)) == ("Encrypt", NEVER)


def test_returned_in_every_state(kms: Kms) -> None:
    """The last use of a disabled key and of one pending deletion is returned; an alias does not name a key here."""
    key_id = new_key(kms).key_id
    new_alias(kms, "alias/used", key_id)
    seal(kms, "alias/used")
    for stop in (disable, enable, schedule):
        stop(kms, key_id)
        assert last_use(kms, key_id).operation == "Encrypt"
    with pytest.raises(NotFoundException):
        last_use(kms, "alias/used")


def test_tracking_began_later(kms: Kms, clock: StoppedClock) -> None:
    """Tracking starts with the key, or for an older key when uses were noted for the first time."""
    old = new_key(kms).key_id
    with kms._core.store.log.atomic() as tx:
        tx.execute(update(use_tracking).values(since=START + timedelta(days=30)))
    clock.advance(days=60)
    young = new_key(kms).key_id
    assert last_usage_response(kms, old).tracking_start_date == START + timedelta(days=30)
    assert last_usage_response(kms, young).tracking_start_date == START + timedelta(days=60)


# -- who sees it, and when ------------------------------------------------------------------------------------------


def test_other_processes_see_it(site: Site, clock: StoppedClock) -> None:
    """The last use by another process is returned here."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        (answer,) = run(
            "act",
            site.folder / "hsmkms.toml",
            (START + timedelta(days=1)).isoformat(),
            "",
            "Encrypt",
            json.dumps({"KeyId": key_id, "Plaintext": "cA=="}),
        )
        assert "CiphertextBlob" in answer
        use = last_use(kms, key_id)
        assert (use.operation, use.timestamp) == ("Encrypt", START + timedelta(days=1))


def test_at_most_a_minute_old(kms: Kms, seconds: SimpleNamespace) -> None:
    """A first use is written at once, and later ones once in 60 seconds, without touching the control plane."""
    key_id = new_key(kms).key_id
    sealed = seal(kms, key_id)
    assert stored_use(kms, key_id) == "Encrypt"
    before = epoch(kms)
    seconds.now += 59.9
    unseal(kms, sealed)
    assert stored_use(kms, key_id) == "Encrypt"
    seconds.now += 0.1
    unseal(kms, sealed)
    assert stored_use(kms, key_id) == "Decrypt"
    assert epoch(kms) == before


def test_nothing_is_lost_at_the_end(site: Site, clock: StoppedClock) -> None:
    """The same process returns the last use at once, and closing writes what is left."""
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
        clock.advance(seconds=30)
        unseal(kms, sealed)
        assert stored_use(kms, key_id) == "Encrypt"
        assert last_use(kms, key_id).operation == "Decrypt"
        clock.advance(seconds=1)
        seal(kms, key_id)
    with site.open(clock) as kms:
        use = last_use(kms, key_id)
        assert (use.operation, use.timestamp) == ("Encrypt", START + timedelta(seconds=31))


def test_later_use_wins(site: Site, clock: StoppedClock) -> None:
    """A process that writes an older use late does not replace a newer one."""
    earlier = StoppedClock()
    with site.open(clock) as here, site.open(earlier) as there:
        key_id = new_key(here).key_id
        sealed = seal(there, key_id)
        unseal(there, sealed)  # not written yet
        clock.advance(seconds=20)
        seal(here, key_id)
        there._core.uses.write()
        for kms in (here, there):
            assert last_use(kms, key_id).timestamp == clock.now


def test_use_that_cannot_be_written(
    kms: Kms, seconds: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk fails no request: the use is kept, a warning is logged, and it is written a minute later."""

    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    key_id, other = new_key(kms).key_id, new_key(kms).key_id
    with monkeypatch.context() as patch:
        patch.setattr("hsmkms.service.runtime.last_use.stored.note", full)
        assert unseal(kms, seal(kms, key_id)) == b"secret"
        assert "could not be written down" in caplog.text
    assert stored_use(kms, key_id) is None
    seconds.now += 60
    seal(kms, other)
    assert stored_use(kms, key_id) == "Decrypt"
