"""Forms of audit records: filled in, they are byte for byte what the encoder makes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import DisabledException
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import DecryptRequest, EncryptRequest
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.rules.audit import fast_json
from hsmkms.rules.audit import record as audit_record
from hsmkms.rules.audit.fast_json import Forms
from hsmkms.rules.audit.record import Event, Occasion, Outcome

OCCASION = Occasion("111122223333", "hsmkms")
START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TEXT = st.text(max_size=12)


def assert_encoded_alike(forms: Forms, caller: Caller, event: Event, outcome: Outcome) -> bytes:
    """Assert that the form encodes the record as the general encoder does; return the encoded record."""
    record = forms.encoded(caller, event, outcome)
    assert record == audit_record.encode(audit_record.of_request(OCCASION, caller, event, outcome))
    return record


def event(number: int, request: Any, name: str = "Encrypt") -> Event:  # noqa: ANN401 - any request
    """The n-th event, a third of a second after the one before."""
    return Event(
        name=name,
        at=START + number * timedelta(seconds=1 / 3),
        event_id=f"event-{number}",
        shown=audit_record.parameters(request),
        arns=(f"arn:aws:kms:eu-central-1:111122223333:key/{number % 2}",),
    )


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=2)), max_size=8))
def test_as_the_encoder_has_it(calls: list[tuple[str, str, str, str, dict[str, str]]]) -> None:
    """For any requests in any order, each record is encoded as the general encoder does."""
    forms = Forms(OCCASION, "gap")
    for number, (agent, address, key, request_id, context) in enumerate(calls):
        caller = Caller(
            principal="arn:aws:iam::111122223333:user/a",
            region="eu-central-1",
            source_address=address,
            user_agent=agent,
            request_id=request_id,
        )
        request = EncryptRequest(key_id=key, plaintext=b"x", encryption_context=context)
        assert_encoded_alike(
            forms, caller, event(number, request), Outcome(used=(("keyMaterialId", key),) if key else ())
        )


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("Encrypt", Outcome(error=DisabledException("no"))),
        ("CreateKey", Outcome()),
        ("Encrypt", Outcome(used=(("keyMaterialId", "ab"),))),
    ],
)
def test_every_outcome(name: str, outcome: Outcome) -> None:
    """Errors, changes and the material that was used are encoded as the general encoder does."""
    caller = Caller(principal="arn:aws:iam::111122223333:root", region="eu-central-1")
    request = EncryptRequest(key_id="k", plaintext=b"x") if name == "Encrypt" else CreateKeyRequest()
    for number in range(3):
        assert_encoded_alike(Forms(OCCASION, "gap"), caller, event(number, request, name), outcome)


@pytest.mark.parametrize("key_id", [None, "k", 'with "quotes"'])
@pytest.mark.parametrize("context", [None, {}, {"a": "b"}, {'"': "\\", "é": "}"}, {"a": "b" * 5000}])
@pytest.mark.parametrize("modifiers", [None, ["IGNORE_CIPHERTEXT"]])
def test_parameters(key_id: str | None, context: dict[str, str] | None, modifiers: list[str] | None) -> None:
    """What is encoded by parts has the members that the encoder shows of the whole request."""
    request = DecryptRequest(
        ciphertext_blob=b"x", key_id=key_id, encryption_context=context, dry_run_modifiers=modifiers
    )
    members = {"keyId": key_id, "encryptionContext": context, "dryRunModifiers": modifiers}
    expected = {name: value for name, value in members.items() if value is not None} or None
    for _ in range(2):
        assert json.loads(bytes(audit_record.parameters(request))) == expected


def test_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that are never the same do not make the memory grow."""
    monkeypatch.setattr(fast_json, "MAX_FORMS", 4)
    forms = Forms(OCCASION, "gap")
    for number in range(20):
        caller = Caller(principal="arn:aws:iam::111122223333:root", region="eu-central-1", user_agent=f"agent {number}")
        assert_encoded_alike(forms, caller, event(number, EncryptRequest(key_id="k", plaintext=b"x")), Outcome())
        assert len(forms._forms) <= 4
