"""Policies and grants as people write them, through the service: who may be named, paths, and what is noted."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from published_policies import ENDPOINT, PUBLISHED, endpoint_only, owner, statement, text
from service_sites import ACCOUNT, REGION, NewFolder, Site, StoppedClock, close_everything, new_key, seal

from hsmkms.config.settings import PermissionSettings
from hsmkms.errors import (
    AccessDeniedException,
    AlreadyExistsException,
    InvalidArnException,
    MalformedPolicyDocumentException,
    NotFoundException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model import deletion, grants, keys, policies
from hsmkms.model.caller import Caller
from hsmkms.model.grants import GrantConstraints
from hsmkms.model.ids import root_arn, user_arn

ROOT = root_arn(ACCOUNT)
ROLE = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
NOBODY = user_arn(ACCOUNT, "nobody", "/division/")
OTHER = "arn:aws:iam::999999999999:root"
SERVICE = "rds.amazonaws.com"
DATABASE = f"arn:aws:rds:{REGION}:{ACCOUNT}:db:orders"
UNKNOWN = [ROLE, NOBODY, f"arn:aws:sts::{ACCOUNT}:assumed-role/admin/session", user_arn(ACCOUNT, "alice", "/other/")]


@pytest.fixture(scope="module", params=["refuse", "accept"])
def either(request: pytest.FixtureRequest, new_folder: NewFolder) -> Iterator[Kms]:
    """An installation with alice, which refuses principals that do not exist, or accepts them."""
    permissions = PermissionSettings(unknown_principals=request.param)
    with Site.make(new_folder(), permissions=permissions).open() as opened:
        opened.operator.credentials.create_user("alice")
        yield opened
    close_everything()


def accepts(kms: Kms) -> bool:
    """Whether it accepts them."""
    return kms._core.accept_unknown_principals


def put(kms: Kms, key_id: str, document: str, **members: Any) -> None:  # noqa: ANN401 - members of the request
    """Put a key policy."""
    kms.put_key_policy(policies.PutKeyPolicyRequest(key_id=key_id, policy=document, **members))


def naming(*principals: str) -> str:
    """A policy of the account's and of a statement for these."""
    return text([owner(ACCOUNT), statement("named", {"AWS": list(principals)}, "kms:*")])


def granted(kms: Kms, key_id: str, **members: Any) -> str:  # noqa: ANN401 - members of the request
    """Create a grant; its id."""
    wanted = {"operations": ["Encrypt", "RetireGrant"], **members}
    return kms.create_grant(grants.CreateGrantRequest(key_id=key_id, **wanted)).grant_id


# -- who may be named ---------------------------------------------------------------------------------------------


def test_every_unknown_principal_is_named(site: Site) -> None:
    """One refusal names all users and roles who are not there, and the setting that takes them."""
    missing = [f"arn:aws:iam::{ACCOUNT}:{each}" for each in ("role/a", "role/b", "user/nobody")]
    with site.open() as kms:
        key = new_key(kms)
        with pytest.raises(MalformedPolicyDocumentException, match=r'unknown_principals = "accept"') as refused:
            put(kms, key.key_id, naming(*missing))
        assert [each for each in missing if each not in str(refused.value)] == []
        with pytest.raises(InvalidArnException, match=r'unknown_principals = "accept"'):
            granted(kms, key.key_id, grantee_principal=missing[0])


@pytest.mark.parametrize("principal", UNKNOWN)
def test_unknown_principals(either: Kms, principal: str) -> None:
    """A user or role who is not there is refused as by AWS, in policies and grants, unless such are accepted."""
    key = new_key(either)
    tries = (
        (MalformedPolicyDocumentException, "invalid principals", lambda: put(either, key.key_id, naming(principal))),
        (MalformedPolicyDocumentException, "invalid principals", lambda: new_key(either, policy=naming(principal))),
        (InvalidArnException, "valid principal", lambda: granted(either, key.key_id, grantee_principal=principal)),
        (
            InvalidArnException,
            "valid principal",
            lambda: granted(either, key.key_id, grantee_principal=ROOT, retiring_principal=principal),
        ),
    )
    for error, words, act in tries:
        if accepts(either):
            act()
        else:
            with pytest.raises(error, match=words):
                act()
    with pytest.raises(AccessDeniedException):
        seal(either, key.key_id, caller=either.caller(REGION, "alice"))


@pytest.mark.parametrize("principal", [OTHER, "999999999999", f"arn:aws:sts::{ACCOUNT}:federated-user/alice"])
def test_others_may_be_named(either: Kms, principal: str) -> None:
    """Other accounts and federated users are accepted in both, and match no caller."""
    key = new_key(either, policy=naming(principal))
    with pytest.raises(AccessDeniedException):
        seal(either, key.key_id, caller=either.caller(REGION, "alice"))
    if principal.isdigit():
        with pytest.raises(InvalidArnException):
            granted(either, key.key_id, grantee_principal=principal)
    else:
        granted(either, key.key_id, grantee_principal=principal, retiring_principal=principal)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_policies(either: Kms, name: str) -> None:
    """Published policies are taken where roles need not exist; where they must, those that name none are."""
    statements = PUBLISHED[name](ACCOUNT)
    names_roles = any("role/" in json.dumps(statement["Principal"]) for statement in statements)
    if accepts(either) or not names_roles:
        key = new_key(either, policy=text(statements), bypass_policy_lockout_safety_check=False)
        shown = either.get_key_policy(policies.GetKeyPolicyRequest(key_id=key.key_id)).policy
        assert json.loads(shown)["Statement"] == statements
    else:
        with pytest.raises(MalformedPolicyDocumentException, match="invalid principals"):
            new_key(either, policy=text(statements))


def test_a_name_that_was_accepted_is_not_the_new_user(either: Kms) -> None:
    """A user who is created after a policy and a grant named the ARN is not the principal that they mean."""
    if not accepts(either):
        with pytest.raises(MalformedPolicyDocumentException):
            new_key(either, policy=naming(NOBODY))
        return
    key = new_key(either, policy=naming(NOBODY)).key_id
    note = f"There is no {NOBODY}: a user created later under that name is a new one, to whom only a Deny applies."
    assert either.operator.notes.of_key_policy(naming(NOBODY)) == [note]
    assert note in {each.sentence for each in either.operator.notes.every()}
    grant_id = granted(either, key, grantee_principal=NOBODY)
    made = either.operator.credentials.create_user("nobody", "/division/")
    assert made.arn == NOBODY
    with pytest.raises(AccessDeniedException):
        seal(either, key, caller=either.caller(REGION, "nobody"))
    (entry,) = either.list_grants(grants.ListGrantsRequest(key_id=key, grant_id=grant_id)).grants
    assert entry.grantee_principal not in (NOBODY, made.user_id)
    put(either, key, naming(NOBODY))
    assert not either.operator.notes.of_key_policy(naming(NOBODY))
    assert seal(either, key, caller=either.caller(REGION, "nobody"))
    either.operator.credentials.delete_user("nobody")


def test_a_denial_that_was_accepted_holds_for_the_new_user(either: Kms) -> None:
    """A Deny that names a user before he is made denies him once he is, and NotPrincipal does not spare him."""
    if not accepts(either):
        return  # there a user cannot be named before it exists
    for element, named in (("Principal", [NOBODY]), ("NotPrincipal", [root_arn(ACCOUNT), NOBODY])):
        statements = [
            {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"},
            {"Effect": "Deny", element: {"AWS": named}, "Action": "kms:Encrypt", "Resource": "*"},
        ]
        key = new_key(either, policy=text(statements)).key_id
        either.operator.credentials.create_user("nobody", "/division/")
        with pytest.raises(AccessDeniedException):
            seal(either, key, caller=either.caller(REGION, "nobody"))
        either.operator.credentials.delete_user("nobody")


# -- grants for services of AWS -----------------------------------------------------------------------------------


def test_a_grant_for_a_service(either: Kms) -> None:
    """Services of AWS are grantees and retire; such grants are listed under their names, and allow no caller."""
    key = new_key(either).key_id
    members = {
        "grantee_principal": None,
        "grantee_service_principal": SERVICE,
        "constraints": GrantConstraints(source_arn=DATABASE),
        "name": "orders",
    }
    grant_id = granted(either, key, **members, retiring_service_principal=SERVICE)
    assert granted(either, key, **members, retiring_service_principal=SERVICE) == grant_id
    by_root = granted(either, key, **members, retiring_principal=ROOT)
    wanted = grants.ListGrantsRequest(key_id=key, grantee_service_principal=SERVICE)
    listed = {grant.grant_id: grant for grant in either.list_grants(wanted).grants}
    assert set(listed) == {grant_id, by_root}
    entry = listed[grant_id]
    assert (entry.grantee_principal, entry.grantee_service_principal) == (None, SERVICE)
    assert (entry.retiring_principal, entry.retiring_service_principal) == (None, SERVICE)
    assert entry.constraints == GrantConstraints(source_arn=DATABASE)
    assert listed[by_root].retiring_principal == ROOT
    assert not either.list_grants(grants.ListGrantsRequest(key_id=key, grantee_principal=ROOT)).grants
    retirable = either.list_retirable_grants(grants.ListRetirableGrantsRequest(retiring_service_principal=SERVICE))
    assert [grant.grant_id for grant in retirable.grants] == [grant_id]
    with pytest.raises(ValidationException, match="either a RetiringPrincipal"):
        either.list_retirable_grants(grants.ListRetirableGrantsRequest())
    with pytest.raises(AccessDeniedException):
        seal(either, key, caller=either.caller(REGION, "alice"))
    either.retire_grant(grants.RetireGrantRequest(key_id=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}", grant_id=by_root))
    either.revoke_grant(grants.RevokeGrantRequest(key_id=key, grant_id=grant_id))
    assert not either.list_grants(wanted).grants


def test_a_grant_of_a_user_for_a_resource(either: Kms) -> None:
    """A grant with a SourceArn allows its user nothing, as no caller comes on behalf of a resource of AWS."""
    key = new_key(either).key_id
    alice = either.caller(REGION, "alice")
    granted(either, key, grantee_principal=alice.principal, constraints=GrantConstraints(source_arn=DATABASE))
    with pytest.raises(AccessDeniedException):
        seal(either, key, caller=alice)
    granted(either, key, grantee_principal=alice.principal)
    assert seal(either, key, caller=alice)


def test_another_account_retires_nothing(either: Kms) -> None:
    """A retiring principal of another account does not let principals of this account retire the grant."""
    key = new_key(either)
    alice = either.caller(REGION, "alice")
    document = text([statement("", None, "kms:RetireGrant")]).replace('"Principal": null, ', "")
    either.operator.identities.put_user_policy("alice", "retire", document)
    other_grant = granted(either, key.key_id, grantee_principal=ROOT, retiring_principal=OTHER)
    own_grant = granted(either, key.key_id, grantee_principal=ROOT, retiring_principal=ROOT)
    with pytest.raises(AccessDeniedException):
        either.retire_grant(grants.RetireGrantRequest(key_id=key.arn, grant_id=other_grant), alice)
    either.retire_grant(grants.RetireGrantRequest(key_id=key.arn, grant_id=own_grant), alice)
    either.operator.identities.delete_user_policy("alice", "retire")


# -- paths --------------------------------------------------------------------------------------------------------


def test_users_with_paths(either: Kms) -> None:
    """The path is in the ARN of calls, policies, grants, refusals and lists."""
    users = either.operator.credentials
    made = users.create_user("dora", "/division/team/")
    arn = f"arn:aws:iam::{ACCOUNT}:user/division/team/dora"
    assert (made.path, made.arn) == ("/division/team/", arn)
    assert {user.user_name: user.arn for user in users.list_users()}["dora"] == arn
    assert either.operator.identities.user("dora").arn == arn
    with pytest.raises(AlreadyExistsException):
        users.create_user("dora")
    access_key = users.create_access_key("dora")
    credential = users.find(access_key.access_key_id)
    assert credential is not None
    assert credential.principal == arn
    dora = either.caller(REGION, "dora")
    key = new_key(either).key_id
    with pytest.raises(AccessDeniedException, match=f"User: {arn} is not"):
        seal(either, key, caller=dora)
    put(either, key, naming(arn))
    assert seal(either, key, caller=dora)
    assert either.operator.simulate("dora", "kms:Encrypt", key_id=key).decision == "allowed"
    put(either, key, text([owner(ACCOUNT)]))
    granted(either, key, grantee_principal=arn)
    assert seal(either, key, caller=dora)
    users.delete_access_key(access_key.access_key_id)
    users.delete_user("dora")


def test_whom_a_principal_means(either: Kms) -> None:
    """The simulation is about a user by name or whole ARN, or the root; a role of that name is unknown."""
    name_of = either.operator.identities.name_of
    assert name_of("alice") == name_of(user_arn(ACCOUNT, "alice")) == "alice"
    assert name_of("root") is name_of(ROOT) is None
    for other in (user_arn(ACCOUNT, "alice", "/x/"), f"arn:aws:iam::{ACCOUNT}:role/alice", OTHER, "x/alice", "zoe"):
        with pytest.raises(NotFoundException):
            name_of(other)


def test_a_user_of_another_path_is_another_principal(either: Kms) -> None:
    """A caller of a deleted user gets nothing of the next user of the name under another path."""
    users = either.operator.credentials
    users.create_user("emma", "/one/")
    before = either.caller(REGION, "emma")
    key = new_key(either, policy=naming(before.principal)).key_id
    assert seal(either, key, caller=before)
    users.delete_user("emma")
    users.create_user("emma", "/two/")
    after = either.caller(REGION, "emma")
    either.operator.identities.put_user_policy(
        "emma", "all", text([statement("", None, "kms:*")]).replace('"Principal": null, ', "")
    )
    assert seal(either, key, caller=after)
    for stale in (before, Caller(principal=user_arn(ACCOUNT, "emma"), region=REGION)):
        with pytest.raises(AccessDeniedException):
            seal(either, key, caller=stale)
    users.delete_user("emma")


@pytest.mark.parametrize("path", ["", "/a", "a/", "/a:root/", "/*/", "//"])
def test_paths_that_are_refused(either: Kms, path: str) -> None:
    """What is no path is refused, and no user is made."""
    with pytest.raises(ValidationException, match="is no path"):
        either.operator.credentials.create_user("finn", path)
    assert "finn" not in {user.user_name for user in either.operator.credentials.list_users()}


# -- notes, and what is measured ----------------------------------------------------------------------------------


def test_notes_about_all_policies(either: Kms) -> None:
    """What never fits is noted of key policies and of those of users and groups, and none of what fits."""
    before = set(either.operator.notes.every())
    key = new_key(either, policy=text(endpoint_only(ACCOUNT, "StringNotLike")))
    own = text([statement("", None, "kms:*", {"StringEquals": {"aws:SourceVpce": ENDPOINT}})])
    own = own.replace('"Principal": null, ', "")
    either.operator.identities.put_user_policy("alice", "endpoint", own)
    either.operator.identities.create_group("crew")
    either.operator.identities.put_group_policy("crew", "endpoint", "\ufeff" + own)
    json.loads(either.operator.identities.group_policies("crew")["endpoint"])
    notes = {note.policy: note.sentence for note in either.operator.notes.every() if note not in before}
    assert notes == {
        f"key policy of {key.arn}": "Statement 2 (endpoint): no request here has aws:SourceVpce: StringNotLike "
        "always holds.",
        "policy endpoint of user alice": "Statement 1: no request here has aws:SourceVpce: StringEquals never holds.",
        "policy endpoint of group crew": "Statement 1: no request here has aws:SourceVpce: StringEquals never holds.",
    }
    simulated = either.operator.simulate("alice", "kms:Decrypt", key_id=key.key_id)
    assert simulated.decision == "explicitDeny"
    assert len(simulated.notes) == 2
    assert not either.operator.simulate("alice", "kms:Sign", key_id=key.key_id).notes[1:]
    either.operator.identities.delete_user_policy("alice", "endpoint")
    either.operator.identities.delete_group("crew")


def test_notes_in_the_log(either: Kms, caplog: pytest.LogCaptureFixture) -> None:
    """A key policy that is put over HTTP shows its caller no note, so the server's log has it."""
    caplog.set_level(logging.INFO, logger="hsmkms.service")
    policy = text(PUBLISHED["cloudwatch_logs"](ACCOUNT))
    key = new_key(either, policy=policy)
    put(either, key.key_id, policy)
    messages = [record.getMessage() for record in caplog.records if "new policy" in record.getMessage()]
    sentence = "Statement 2: nobody calls here as logs.eu-central-1.amazonaws.com."
    assert messages == [f"the new policy of key {key.arn}, {sentence}"] * 2


def test_days_without_use(new_folder: NewFolder, clock: StoppedClock) -> None:
    """kms:TrailingDaysWithoutKeyUsage counts whole days since the last use; without any since the key was made."""
    close_everything()
    recent = {"NumericLessThanEquals": {"kms:TrailingDaysWithoutKeyUsage": "30"}}
    against = statement("used of late", "*", ["kms:ScheduleKeyDeletion", "kms:DisableKey"], recent, "Deny")
    clock.now = datetime.now(UTC) + timedelta(hours=1)  # uses are noted since the databases were made
    with Site.make(new_folder()).open(clock) as kms:
        used, unused = (new_key(kms, policy=text([owner(ACCOUNT), against])).key_id for _ in range(2))
        clock.advance(days=10)
        seal(kms, used)
        clock.advance(days=20, hours=23)
        for key in (used, unused):
            with pytest.raises(AccessDeniedException, match="explicit deny"):
                kms.disable_key(keys.DisableKeyRequest(key_id=key))
        clock.advance(hours=1)
        kms.disable_key(keys.DisableKeyRequest(key_id=unused))
        with pytest.raises(AccessDeniedException, match="explicit deny"):
            kms.schedule_key_deletion(deletion.ScheduleKeyDeletionRequest(key_id=used))
        clock.advance(days=10)
        kms.schedule_key_deletion(deletion.ScheduleKeyDeletionRequest(key_id=used))
    close_everything()
