"""Prepared lines of audit records: filled in, they are byte for byte what the encoder makes."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from hsmkms.model.caller import Caller
from hsmkms.model.crypto import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GenerateRandomRequest,
    ReEncryptRequest,
    ReEncryptResponse,
)
from hsmkms.model.enums import EncryptionAlgorithm, Operation
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.rules.audit import fast_json
from hsmkms.rules.audit import record as audit_record
from hsmkms.rules.audit.fast_json import MAX_KEPT, Forms
from hsmkms.rules.audit.record import Occasion, Outcome

OCCASION = Occasion("111122223333", "hsmkms")
START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ROOT = Caller(principal="arn:aws:iam::111122223333:root", region="eu-central-1")
TEXT = st.text(max_size=12)
CALLERS = st.builds(
    Caller,
    principal=st.sampled_from(["arn:aws:iam::111122223333:user/a", "arn:aws:iam::111122223333:root", ""]) | TEXT,
    region=TEXT,
    source_address=st.none() | TEXT,
    request_id=TEXT,
    access_key_id=st.none() | TEXT,
    user_agent=st.none() | TEXT,
)
WORDS = st.none() | st.sampled_from([*EncryptionAlgorithm]) | TEXT
FLAGS = st.sampled_from([None, True, False, 1, 0, 1.0])
CONTEXTS = st.none() | st.dictionaries(TEXT, TEXT, max_size=2)
MODIFIERS = st.none() | st.lists(TEXT, max_size=2)
REQUESTS = st.one_of(
    st.builds(
        EncryptRequest,
        key_id=TEXT,
        plaintext=st.binary(max_size=2),
        encryption_context=CONTEXTS,
        encryption_algorithm=WORDS,
        dry_run=FLAGS,
    ),
    st.builds(
        DecryptRequest,
        key_id=st.none() | TEXT,
        encryption_context=CONTEXTS,
        dry_run=FLAGS,
        dry_run_modifiers=MODIFIERS,
    ),
    st.builds(ReEncryptRequest, destination_key_id=TEXT, source_encryption_context=CONTEXTS),
    st.builds(GenerateRandomRequest, number_of_bytes=st.sampled_from([None, 1, True, 2])),
)
RESPONSES = st.one_of(
    st.none(),
    st.builds(EncryptResponse, ciphertext_blob=st.just(b"x"), key_id=TEXT, encryption_algorithm=TEXT),
    st.builds(DecryptResponse, key_id=TEXT, encryption_algorithm=TEXT, key_material_id=st.none() | TEXT),
    st.builds(
        ReEncryptResponse,
        ciphertext_blob=st.just(b"x"),
        key_id=TEXT,
        source_key_material_id=st.none() | TEXT,
        destination_key_material_id=st.none() | TEXT,
    ),
)


class Call(Struct, kw_only=True):
    """A request on its way through the pipeline, as far as the audit log reads it."""

    operation: Operation = Operation.ENCRYPT
    caller: Caller = ROOT
    now: datetime = START
    resources: list[str] = []
    material_id: str | None = None


CALLS = st.builds(
    Call,
    operation=st.sampled_from([Operation.ENCRYPT, Operation.DECRYPT, Operation.CREATE_KEY]),
    caller=CALLERS,
    now=st.integers(0, 9).map(lambda thirds: START + thirds * timedelta(seconds=1 / 3)),
    resources=st.lists(
        st.sampled_from([f"arn:aws:kms:eu-central-1:111122223333:key/{each}" for each in "ab"]), max_size=2
    ),
    material_id=st.none() | TEXT,
)


def assert_encoded_alike(
    forms: Forms, call: Call, request: Struct, response: Struct | None, event_id: str = "event"
) -> bytes:
    """Assert that the prepared line is what the general encoder makes; return it."""
    record = forms.answered(call, call.now, request, response, event_id)
    outcome = Outcome(response=response, used=audit_record.materials(response, call.material_id))
    event = audit_record.event_of(call, call.now, request, event_id)
    assert record == audit_record.encode(audit_record.of_request(OCCASION, call.caller, event, outcome))
    return record


@given(st.lists(st.tuples(CALLS, REQUESTS, RESPONSES, TEXT), max_size=8))
def test_as_the_encoder_has_it(calls: list[tuple[Call, Struct, Struct | None, str]]) -> None:
    """For any requests in any order, each record is encoded as the general encoder does, twice."""
    forms = Forms(OCCASION, "a word that nobody knows")
    for call, request, response, event_id in (*calls, *calls):
        assert_encoded_alike(forms, call, request, response, event_id)


def test_a_line_is_prepared_once_and_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that differ in time, ids and context use one prepared line; another key only another part."""
    forms, prepared = Forms(OCCASION, "gap"), list[Call]()
    prepare: Callable[..., Any] = forms._prepare
    monkeypatch.setattr(forms, "_prepare", lambda call, *rest: (prepared.append(call), prepare(call, *rest))[1])
    for number in range(6):
        call = Call(now=START + timedelta(seconds=number / 3), resources=["arn:aws:kms:eu-central-1:1:key/a"])
        request = EncryptRequest(key_id="k", plaintext=b"x", encryption_context={"number": str(number)})
        assert_encoded_alike(forms, call, request, None, f"event {number}")
    assert len(prepared) == 1
    assert_encoded_alike(forms, Call(resources=["arn:aws:kms:eu-central-1:1:key/b"]), request, None)
    assert (len(forms._of_callers), len(forms._of_keys)) == (1, 2)


def test_the_gap_in_a_request() -> None:
    """A context and a user agent that contain what marks the gaps are encoded as they are."""
    forms = Forms(OCCASION, "gap")
    caller = Caller(principal="gap", region="eu", user_agent='"gap"', request_id='"gap"')
    request = EncryptRequest(key_id="k", plaintext=b"x", encryption_context={"gap": '"gap"'})
    for _ in range(2):
        assert_encoded_alike(forms, Call(caller=caller), request, None)


@pytest.mark.parametrize("length", [MAX_KEPT - 10, MAX_KEPT, 200_000])
def test_long_parameters(length: int) -> None:
    """Long contexts and key ids are encoded in full, and what is too long for a record is left out, as everywhere."""
    forms = Forms(OCCASION, "a word that nobody knows")
    for request in (
        EncryptRequest(key_id="k", plaintext=b"x", encryption_context={"a": "b" * length}),
        EncryptRequest(key_id="k" * length, plaintext=b"x", encryption_context={"a": "b"}),
        EncryptRequest(key_id="k" * length, plaintext=b"x"),
    ):
        for _ in range(2):
            record = assert_encoded_alike(forms, Call(), request, None)
        assert (b'"omitted"' in record) == (len(request.key_id) > audit_record.MAX_PARAMETERS)


def test_the_same_instant_in_another_zone() -> None:
    """An instant is recorded in UTC, whatever its own zone is."""
    forms = Forms(OCCASION, "gap")
    for zone in (UTC, timezone(timedelta(hours=5, minutes=30))):
        record = assert_encoded_alike(
            forms, Call(now=START.astimezone(zone)), EncryptRequest(key_id="k", plaintext=b"x"), None
        )
        assert json.loads(record)["eventTime"] == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("key_id", [None, "k", 'with "quotes"'])
@pytest.mark.parametrize("context", [None, {}, {"a": "b"}, {'"': "\\", "é": "}"}, {"a": "b" * 5000}])
@pytest.mark.parametrize("modifiers", [None, ["IGNORE_CIPHERTEXT"]])
def test_parameters(key_id: str | None, context: dict[str, str] | None, modifiers: list[str] | None) -> None:
    """The recorded members are those of the request that are set, but for bytes and grant tokens."""
    request = DecryptRequest(
        ciphertext_blob=b"x", key_id=key_id, encryption_context=context, dry_run_modifiers=modifiers, grant_tokens=["t"]
    )
    members = {"keyId": key_id, "encryptionContext": context, "dryRunModifiers": modifiers}
    expected = {name: value for name, value in members.items() if value is not None} or None
    assert json.loads(bytes(audit_record.parameters(request))) == expected


def test_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients and keys that are never the same do not make the memory grow."""
    monkeypatch.setattr(fast_json, "MAX_PARTS", 4)
    forms = Forms(OCCASION, "a word that nobody knows")
    for number in range(20):
        call = Call(
            caller=Caller(principal="", region="eu-central-1", user_agent=f"agent {number}"),
            resources=[f"arn:aws:kms:eu-central-1:111122223333:key/{number}"],
        )
        assert_encoded_alike(forms, call, EncryptRequest(key_id="k", plaintext=b"x"), None)
        assert len(forms._of_callers) <= 4
        assert len(forms._of_keys) <= 4


def test_changes_are_encoded_in_full() -> None:
    """The record of a change has the response, so no line is prepared for it."""
    forms = Forms(OCCASION, "a word that nobody knows")
    assert_encoded_alike(forms, Call(operation=Operation.CREATE_KEY), CreateKeyRequest(), None)
    assert not forms._of_keys
