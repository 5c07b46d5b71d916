"""Two nodes on one database and one token: what one does while the other is stopped in the middle of an act."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from lifecycle import YEAR, at, backing_keys, record_of, switch_on
from msgspec import Struct
from postgresql_cluster import Cluster, name_of
from service_sites import NewFolder, Site, StoppedClock, close_everything, mac_key, new_key, seal, unseal

from hsmkms.errors import ConflictException
from hsmkms.kms import Kms
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.service.keys.installation_keys import versions
from hsmkms.service.operator.key_rotation import Outcome


class Nodes(Struct):
    """Two nodes of an installation, open in this process, and the clock of both."""

    one: Kms
    two: Kms
    site: Site
    clock: StoppedClock
    cluster: Cluster

    def end_leases(self) -> None:
        """Let the leases of the first node run out, as if it had been stopped for longer than they last."""
        with self.cluster.connect(name_of(str(self.site.settings.store.url))) as admin:
            admin.execute("UPDATE lease SET until = 0, holder = 'a node that was stopped'")


@pytest.fixture
def nodes(prepared_on_server: Site, new_folder: NewFolder, cluster: Cluster) -> Iterator[Nodes]:
    """Two nodes of an installation of the test's own."""
    site, clock = prepared_on_server.copy(new_folder()), StoppedClock()
    second = site.join(new_folder())
    with site.open(clock) as one, second.open(clock) as two:
        yield Nodes(one, two, site, clock, cluster)
    close_everything()
    site.drop()


def own_keys_on_token(kms: Kms) -> list[str]:
    """The labels of the installation's own keys that the token holds."""
    found = kms._core.device.keys.inventory(mac_key(kms))
    return sorted(each.label for each in found if any(f"/{purpose}/" in each.label for purpose in KeyPurpose))


def expected_labels(kms: Kms) -> list[str]:
    """The labels of the installation's own keys that the database knows."""
    core = kms._core
    known = [each for purpose in KeyPurpose for each in versions(core, purpose)]
    return sorted(each.label(core.installation.id) for each in known)


@pytest.mark.parametrize(
    ("purpose", "ends"),
    [
        (KeyPurpose.MAC, pytest.raises(ConflictException, match="could take over the lock installation-keys")),
        (KeyPurpose.AUDIT_SEAL, nullcontext()),
        (KeyPurpose.SECRETS, nullcontext()),
    ],
)
def test_a_node_that_was_stopped_before_the_device(
    nodes: Nodes, purpose: KeyPurpose, ends: AbstractContextManager[object]
) -> None:
    """Another node finishes its rotation; when it goes on it finds the key that this one made, and makes none.

    What it would write to the database is refused.
    """
    if purpose is KeyPurpose.SECRETS:
        nodes.one.operator.credentials.create_user("alice")
        nodes.one.operator.credentials.create_access_key("alice")
    before = len(versions(nodes.one._core, purpose))

    def overtake() -> None:
        nodes.end_leases()
        assert nodes.two.operator.rotate_installation_key(purpose).outcome is Outcome.FINISHED

    nodes.one._core.reached = at("rotate-own 1: intent", overtake)
    with ends:
        nodes.one.operator.rotate_installation_key(purpose)
    assert [each.version for each in versions(nodes.one._core, purpose)] == [*range(1, before + 2)]
    assert own_keys_on_token(nodes.one) == expected_labels(nodes.one)


def test_a_node_that_was_stopped_in_a_call_to_the_device(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key comes to the token when another node has made another one: it takes it back, and says what to do."""
    own, began = nodes.one._core.device.own, []
    generate = own.generate_mac_key

    def stopped(*arguments: Any) -> None:  # noqa: ANN401 - passed on
        if not began:
            began.append(arguments)
            nodes.end_leases()
            assert nodes.two.operator.rotate_installation_key(KeyPurpose.AUDIT_SEAL).outcome is Outcome.FINISHED
        generate(*arguments)

    monkeypatch.setattr(own, "generate_mac_key", stopped)
    with pytest.raises(ConflictException, match=r"Run the command again, which goes on from what is there"):
        nodes.one.operator.rotate_installation_key(KeyPurpose.AUDIT_SEAL)
    assert began
    assert own_keys_on_token(nodes.one) == expected_labels(nodes.one)
    assert nodes.one.operator.rotate_installation_key(KeyPurpose.AUDIT_SEAL).outcome is Outcome.ROTATED
    assert own_keys_on_token(nodes.one) == expected_labels(nodes.one)


def test_the_key_that_was_found_on_the_token_stays(nodes: Nodes) -> None:
    """A node that was stopped after the device finds that another one has used the key that it made."""
    nodes.one._core.reached = at("rotate-own 2: device", lambda: _finish_rotation(nodes))
    nodes.one.operator.rotate_installation_key(KeyPurpose.AUDIT_SEAL)
    assert len(versions(nodes.one._core, KeyPurpose.AUDIT_SEAL)) == 2
    assert own_keys_on_token(nodes.one) == expected_labels(nodes.one)


def _finish_rotation(nodes: Nodes) -> None:
    nodes.end_leases()
    assert nodes.two.operator.rotate_installation_key(KeyPurpose.AUDIT_SEAL, destroy_older=True).version == 2


@pytest.mark.parametrize("step", ["rotate 1: intent", "rotate 2: device"])
def test_one_rotation_of_a_due_key(nodes: Nodes, step: str) -> None:
    """A sweep of the second node, eleven minutes after the first one was stopped in its own, rotates the key once."""
    key_id = new_key(nodes.one).key_id
    switch_on(nodes.one, key_id)
    sealed = seal(nodes.one, key_id)
    nodes.clock.now += YEAR

    def overtake() -> None:
        nodes.clock.advance(minutes=11)
        with nodes.cluster.connect(name_of(str(nodes.site.settings.store.url))) as admin:
            admin.execute("UPDATE sweeper SET until = 0, holder = 'a node that was stopped'")
        nodes.two.operator.maintain()

    nodes.one._core.reached = at(step, overtake)
    nodes.one.operator.maintain()
    nodes.two.operator.maintain()
    assert backing_keys(nodes.one) == {key_id: 2}
    assert len(record_of(nodes.two, key_id).materials) == 2
    assert nodes.one.operator.find_differences() == []
    assert unseal(nodes.two, sealed) == b"secret"


def test_due_work_is_done_by_one_node(nodes: Nodes) -> None:
    """While a node sweeps, the other one is told that somebody does; its lease is of the database."""
    key_id, busy = new_key(nodes.one).key_id, list[bool]()
    switch_on(nodes.one, key_id)
    nodes.clock.now += YEAR
    ask: Callable[[], None] = lambda: busy.append(nodes.two.operator.maintain().busy)  # noqa: E731 - a hook
    nodes.one._core.reached = at("rotate 2: device", ask)
    assert not nodes.one.operator.maintain().busy
    assert busy == [True]
    assert not nodes.two.operator.maintain().busy
    assert backing_keys(nodes.two) == {key_id: 2}
