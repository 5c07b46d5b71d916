"""What a decision costs, and an Encrypt by callers who are allowed in different ways, in one run."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from bench import PLAINTEXT, make_installation, medians, rate

from hsmkms import Kms
from hsmkms.config.settings import AuditSettings
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.enums import Operation
from hsmkms.model.grants import CreateGrantRequest, GrantConstraints
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.model.shapes import Tag
from hsmkms.service.pipeline import Call
from hsmkms.wiring import core as wiring

CONTEXT = {"album": "2026"}
DECISIONS = 20_000
GRANTS = 1_000


def policy(*statements: dict[str, object]) -> str:
    """A policy's text."""
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Resource": "*"} | each for each in statements]})


def people(kms: Kms) -> None:
    """Users who are allowed by a policy of their own, by one with conditions, by the key policy, and by a grant."""
    for name in ("own", "conditions", "named", "granted"):
        kms.operator.credentials.create_user(name)
    kms.operator.identities.put_user_policy("own", "use", policy({"Effect": "Allow", "Action": "kms:Encrypt"}))
    strict: dict[str, object] = {
        "Effect": "Allow",
        "Action": "kms:*",
        "Resource": "arn:aws:kms:*:*:key/*",
        "Condition": {
            "StringEquals": {"kms:EncryptionContext:album": "2026", "aws:ResourceTag/team": "${aws:PrincipalTag/team}"},
            "Bool": {"aws:SecureTransport": "true"},
        },
    }
    kms.operator.identities.put_user_policy("conditions", "use", policy(strict))
    kms.operator.identities.tag_user("conditions", [("team", "red")])


def key_of(kms: Kms) -> str:
    """A key whose policy names one of the users, with a grant of another among many."""
    account = kms.caller().principal.split(":")[4]
    key_policy = policy(
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:root"}, "Action": "kms:*"},
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:user/named"}, "Action": "kms:Encrypt"},
    )
    request = CreateKeyRequest(policy=key_policy, tags=[Tag(tag_key="team", tag_value="red")])
    key_id = kms.create_key(request).key_metadata.key_id
    for number in range(GRANTS):
        grantee = "granted" if number == 0 else "own"
        kms.create_grant(
            CreateGrantRequest(
                key_id=key_id,
                grantee_principal=f"arn:aws:iam::{account}:user/{grantee}",
                operations=["Encrypt"],
                constraints=GrantConstraints(encryption_context_subset=CONTEXT if number == 0 else {"n": str(number)}),
            )
        )
    return key_id


def microseconds(kms: Kms, key_id: str, user: str | None) -> float:
    """The time of one decision alone: the question is made once."""
    request = EncryptRequest(key_id=key_id, plaintext=PLAINTEXT, encryption_context=CONTEXT)
    call = Call(kms.operator._core, Operation.ENCRYPT, kms.caller(user=user), request)
    key = call.find(key_id)
    question = call.question("kms:Encrypt", key.record.arn, key)
    decide: Callable[[], object] = partial(kms.operator._core.authorise.decide, question)
    decide()
    started = time.perf_counter()
    for _ in range(DECISIONS):
        decide()
    return (time.perf_counter() - started) / DECISIONS * 1e6


def bench(kms: Kms, seconds: float) -> None:
    """Measure and print."""
    people(kms)
    key_id = key_of(kms)
    rows = {
        "root, by the account's statement": None,
        "user named by the key policy": "named",
        "user with a policy of their own": "own",
        "user with a policy of three conditions and a variable": "conditions",
        f"grantee of one of {GRANTS:,} grants": "granted",
    }
    request = EncryptRequest(key_id=key_id, plaintext=PLAINTEXT, encryption_context=CONTEXT)
    callers = {name: kms.caller(user=user) for name, user in rows.items()}
    acts = {name: partial(kms.encrypt, request, caller) for name, caller in callers.items()}
    found = medians({name: partial(rate, act, 1, seconds) for name, act in acts.items()})
    print("| caller | decision, µs | Encrypt/s, one thread |\n|---|---|---|")
    for name, user in rows.items():
        print(f"| {name} | {microseconds(kms, key_id, user):.1f} | {found[name]:,.0f} |")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hsmkms-bench-") as folder:
        # Without the audit log, whose cost has a table of its own (scripts/bench audit).
        settings = msgspec.structs.replace(make_installation(Path(folder)), audit=AuditSettings(durability="off"))
        with Kms(wiring.core_of(settings)) as kms:
            bench(kms, arguments.seconds)


if __name__ == "__main__":
    main()
