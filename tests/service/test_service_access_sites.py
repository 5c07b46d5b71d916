"""Permissions of installations of their own: keys of services, and several processes."""

import msgspec
import pytest
from service_sites import ACCOUNT, REGION, NewSite, StoppedClock, new_key, seal, store_beside, unseal

from hsmkms.errors import AccessDeniedException
from hsmkms.model import grants, keys, policies
from hsmkms.model.ids import root_arn
from hsmkms.rules.iam.policies import NOTHING, default_policy
from hsmkms.service.operator.identities import Identities
from hsmkms.store import grants as table

EVERYTHING = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}'


# -- keys of services ---------------------------------------------------------------------------------------------


def test_first_use_is_authorised_first(new_site: NewSite) -> None:
    """A service's key is not created for a caller who may not do the request; all of the account may use it."""
    with new_site(services=("photos",)).open() as kms:
        kms.operator.credentials.create_user("alice")
        alice = kms.caller(REGION, "alice")
        kms.operator.identities.put_user_policy("alice", "no", NOTHING)
        with pytest.raises(AccessDeniedException, match="alias/aws/photos"):
            seal(kms, "alias/aws/photos", caller=alice)
        assert kms.list_keys(keys.ListKeysRequest()).keys == []
        kms.operator.identities.delete_user_policy("alice", "no")
        assert unseal(kms, seal(kms, "alias/aws/photos", caller=alice), alice) == b"secret"
        (entry,) = kms.list_keys(keys.ListKeysRequest()).keys
        assert kms.describe_key(keys.DescribeKeyRequest(key_id=entry.key_id), alice)
        request = policies.GetKeyPolicyRequest(key_id=entry.key_id)
        with pytest.raises(AccessDeniedException):
            kms.get_key_policy(request, alice)
        assert "kms:CallerAccount" in kms.get_key_policy(request).policy


def test_nobody_manages_keys_of_services(new_site: NewSite) -> None:
    """Not even the root puts a policy on a service's key, grants anything on it, or disables it."""
    with new_site(services=("photos",)).open() as kms:
        seal(kms, "alias/aws/photos")
        (entry,) = kms.list_keys(keys.ListKeysRequest()).keys
        with pytest.raises(AccessDeniedException, match="belongs to a service"):
            kms.put_key_policy(policies.PutKeyPolicyRequest(key_id=entry.key_id, policy=default_policy(ACCOUNT)))
        with pytest.raises(AccessDeniedException, match="belongs to a service"):
            kms.disable_key(keys.DisableKeyRequest(key_id=entry.key_id))
        with pytest.raises(AccessDeniedException, match="belongs to a service"):
            kms.create_grant(
                grants.CreateGrantRequest(
                    key_id=entry.key_id, grantee_principal=root_arn(ACCOUNT), operations=["Encrypt"]
                )
            )


# -- several processes --------------------------------------------------------------------------------------------


def test_every_process_heeds_a_change(new_site: NewSite) -> None:
    """What one process changes about users, groups, key policies and grants another one heeds at its next call."""
    site = new_site()
    with site.open() as kms:
        kms.operator.credentials.create_user("alice")
        alice = kms.caller(REGION, "alice")
        key = new_key(kms).key_id
        other = store_beside(kms)  # it commits like another process
        elsewhere = Identities(msgspec.structs.replace(kms._core, store=other))
        with pytest.raises(AccessDeniedException):
            seal(kms, key, caller=alice)
        elsewhere.put_user_policy("alice", "p", EVERYTHING)
        assert seal(kms, key, caller=alice)
        elsewhere.delete_user_policy("alice", "p")
        with pytest.raises(AccessDeniedException):
            seal(kms, key, caller=alice)
        request = grants.CreateGrantRequest(key_id=key, grantee_principal=alice.principal, operations=["Encrypt"])
        grant_id = kms.create_grant(request).grant_id
        assert seal(kms, key, caller=alice)
        with other.atomic() as tx:
            grant = table.fetch(tx, REGION, grant_id)
            assert grant is not None
            table.delete(tx, grant)
        with pytest.raises(AccessDeniedException):
            seal(kms, key, caller=alice)
        other.close()


def test_a_new_user_at_the_same_instant(new_site: NewSite, clock: StoppedClock) -> None:
    """A user who is deleted and created again has another id, also while the clock stands still."""
    with new_site().open(clock) as opened:
        users = opened.operator.credentials
        ids = set()
        for _ in range(3):
            ids.add(users.create_user("dave").user_id)
            users.delete_user("dave")
    assert len(ids) == 3
