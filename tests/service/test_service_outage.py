"""A node whose database does not answer it, while others go on, and how soon a change acts while it does."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec import Struct
from postgresql_cluster import Cluster
from postgresql_proxy import Proxy
from service_sites import ACCOUNT, REGION, NewFolder, Site, new_alias, new_key, seal, unseal

from hsmkms.config.settings import StoreSettings
from hsmkms.errors import AccessDeniedException, DependencyTimeoutException, DisabledException
from hsmkms.kms import Kms
from hsmkms.model.asymmetric import GenerateMacRequest
from hsmkms.model.caller import Caller
from hsmkms.model.enums import KeySpec, KeyUsage
from hsmkms.model.grants import CreateGrantRequest, RevokeGrantRequest
from hsmkms.model.keys import DescribeKeyRequest, DisableKeyRequest
from hsmkms.store import leases
from hsmkms.store.consistency import Consistency
from hsmkms.store.postgresql import listener as listeners

LONG_SECONDS = 60
STALE_SECONDS = 20.0


class Clock:
    """The clock by which the age of what is cached is measured; it moves on demand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


class Node(Struct):
    """A node whose database is behind a proxy, another one of the same installation, and their clock."""

    kms: Kms
    other: Kms
    proxy: Proxy
    clock: Clock

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        until = time.monotonic() + LONG_SECONDS
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.01)

    def is_away(self) -> bool:
        """Whether the node knows that the database does not answer it."""
        return self.kms.operator.watch.outage() is not None

    def cut_off(self) -> None:
        """Have the database answer this node no more."""
        self.proxy.cut()
        self.wait(self.is_away)

    def mend(self) -> None:
        """Have the database answer again."""
        self.proxy.mend()
        self.wait(lambda: not self.is_away())

    def age(self, seconds: float) -> None:
        """Let what the node has cached be so old."""
        self.clock.now = self.kms._core.cache.signal._listener.read_at + seconds  # type: ignore[attr-defined]


@pytest.fixture
def node(
    prepared_on_server: Site,
    new_folder: NewFolder,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Node]:
    """An open installation."""
    clock, proxy = Clock(), Proxy(tmp_path, cluster.folder)
    monkeypatch.setattr("hsmkms.wiring.stores.Consistency", partial(Consistency, clock=clock))
    direct = prepared_on_server.copy(new_folder())
    url = str(direct.settings.store.url).replace(str(cluster.folder), str(tmp_path))
    behind = direct.varied("behind.toml", store=StoreSettings(url=url, stale_seconds=STALE_SECONDS))
    with behind.open() as kms, direct.open() as other:
        yield Node(kms, other, proxy, clock)
        proxy.mend()
    proxy.close()
    direct.drop()


def caller_of(name: str) -> Caller:
    """A user of the account."""
    return Caller(principal=f"arn:aws:iam::{ACCOUNT}:user/{name}", region=REGION)


def allow(kms: Kms, name: str) -> Caller:
    """Make a user who may use all keys."""
    kms.operator.credentials.create_user(name)
    text = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}'
    kms.operator.identities.put_user_policy(name, "all", text)
    return caller_of(name)


def grant_to(kms: Kms, name: str, key_id: str) -> tuple[Caller, str]:
    """Make a user who may encrypt with one key by a grant; return the grant's id."""
    kms.operator.credentials.create_user(name)
    made = kms.create_grant(
        CreateGrantRequest(key_id=key_id, grantee_principal=caller_of(name).principal, operations=["Encrypt"])
    )
    return caller_of(name), made.grant_id


def test_cached_keys_go_on(node: Node) -> None:
    """Whatever uses a cached key works on, and nothing is changed; afterwards counts and uses are complete."""
    kms, user = node.kms, allow(node.kms, "alice")
    made = new_key(kms)
    key_id, material = made.key_id, made.current_key_material_id or ""
    new_alias(kms, "alias/cached", key_id)
    mac_key = new_key(kms, key_spec=KeySpec.HMAC_256, key_usage=KeyUsage.GENERATE_VERIFY_MAC).key_id
    unused = new_key(node.other).key_id
    mac = GenerateMacRequest(key_id=mac_key, message=b"text", mac_algorithm="HMAC_SHA_256")
    sealed = seal(kms, "alias/cached", caller=user)
    kms.generate_mac(mac, user)
    kms.operator.bridge_outages()
    node.cut_off()
    for _ in range(100):
        assert unseal(kms, seal(kms, "alias/cached", caller=user), user) == b"secret"
    kms.generate_mac(mac, user)
    assert unseal(kms, sealed, user) == b"secret"
    for refused in (
        lambda: seal(kms, unused),
        lambda: new_key(kms),
        lambda: new_alias(kms, "alias/more", key_id),
        lambda: kms.disable_key(DisableKeyRequest(key_id=key_id)),
        kms.operator.maintain,
    ):
        with pytest.raises(DependencyTimeoutException):
            refused()
    kms.operator.bridge_outages()  # which is done each second, and tried again in the next one
    node.age(STALE_SECONDS)
    assert unseal(kms, sealed, user) == b"secret"
    node.age(STALE_SECONDS + 0.001)
    with pytest.raises(DependencyTimeoutException, match="stale_seconds"):
        unseal(kms, sealed, user)
    assert leases.total(node.other._core.store, material) >= 101
    node.mend()
    kms.operator.bridge_outages()
    assert unseal(kms, sealed, user) == b"secret"
    assert kms.describe_key(DescribeKeyRequest(key_id=key_id)).key_metadata.enabled
    used = node.other._core.uses.last(mac_key, REGION)
    assert used is not None
    kms.operator.audit.log.flush()
    assert not kms.operator.audit.verify().faults


def test_nothing_ended_works_beyond_its_bound(node: Node) -> None:
    """A disabled key, a removed user and a revoked grant work until the bound, then not, and not afterwards either."""
    kms, other = node.kms, node.other
    disabled, key_id = new_key(other).key_id, new_key(other).key_id
    removed = allow(other, "alice")
    revoked, grant_id = grant_to(other, "bob", key_id)
    attempts = [partial(seal, kms, disabled), partial(seal, kms, key_id, caller=removed)]
    attempts.append(partial(seal, kms, key_id, caller=revoked))
    for each in attempts:
        each()
    kms.operator.bridge_outages()
    node.cut_off()
    other.disable_key(DisableKeyRequest(key_id=disabled))
    other.operator.identities.delete_user_policy("alice", "all")
    other.operator.credentials.delete_user("alice")
    other.revoke_grant(RevokeGrantRequest(key_id=key_id, grant_id=grant_id))
    node.age(STALE_SECONDS)
    for each in attempts:
        each()
    node.age(STALE_SECONDS + 0.001)
    for each in attempts:
        with pytest.raises(DependencyTimeoutException):
            each()
    node.mend()
    for each, error in zip(attempts, (DisabledException, AccessDeniedException, AccessDeniedException), strict=True):
        with pytest.raises(error):
            each()


def test_within_a_second(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database answers, a second after a change of another node it acts, also where nobody was notified."""
    monkeypatch.setattr(listeners, "POLL_SECONDS", 3600.0)
    monkeypatch.setattr(
        "hsmkms.store.postgresql.generation._RAISE",
        "UPDATE generation SET number = number + 1 RETURNING number",
    )
    key_id = new_key(node.other).key_id
    node.age(1.001)
    seal(node.kms, key_id)
    node.other.disable_key(DisableKeyRequest(key_id=key_id))
    node.age(1.001)
    with pytest.raises(DisabledException):
        seal(node.kms, key_id)


def test_a_change_that_cannot_be_read(node: Node) -> None:
    """A process that knows of a change, and cannot read which, uses nothing that is cached, however young it is."""
    key_id = new_key(node.kms).key_id
    seal(node.kms, key_id)
    node.kms.operator.bridge_outages()
    node.cut_off()
    seal(node.kms, key_id)
    node.kms._core.cache.signal._generation.note(-1)  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(DependencyTimeoutException):
            seal(node.kms, key_id)
    node.mend()
    seal(node.kms, key_id)
