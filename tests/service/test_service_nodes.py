"""Two nodes on one database and one token: what one does while the other is stopped in the middle of an act."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

import pytest
from lifecycle import YEAR, at, backing_keys, record_of, switch_on
from msgspec import Struct
from postgresql_cluster import Cluster, name_of
from service_sites import NewFolder, Site, StoppedClock, close_everything, mac_key, new_key, seal, unseal

from hsmkms.config.store_settings import StoreSettings
from hsmkms.errors import ConfigurationError, ConflictException, StoreError
from hsmkms.kms import Kms
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.service.keys.installation_keys import versions
from hsmkms.service.operator.key_rotation import Outcome
from hsmkms.store.engine import Store
from hsmkms.wiring import move_store


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


# -- presence -------------------------------------------------------------------------------------------------------


def ids(nodes: Nodes) -> tuple[str, str]:
    """The ids of both nodes."""
    one, two = nodes.one.operator.nodes.standings()
    return one.node, two.node


def age(nodes: Nodes, seconds: int) -> None:
    """Let all heartbeats be older."""
    with nodes.cluster.connect(name_of(str(nodes.site.settings.store.url))) as admin:
        admin.execute(f"UPDATE node_process SET seen_at = seen_at - {seconds} * 1000000::bigint".encode())


def test_heartbeats(nodes: Nodes) -> None:
    """A node runs while a worker of it beats, by the database's clock; what that has not read yet is counted."""
    before = nodes.one.operator.nodes.standings()
    assert [(each.here, each.workers, each.last_heartbeat, each.lag) for each in before] == [
        (True, 0, None, None),
        (False, 0, None, None),
    ]
    nodes.two.operator.nodes.beat()
    nodes.two.operator.nodes.beat()
    _, two = nodes.one.operator.nodes.standings()
    assert (two.workers, two.tokens, two.lag, two.next) == (1, ["hsmkms service test"], 0, None)
    assert two.versions == [metadata.version("hsmkms")]
    new_key(nodes.one)
    assert (nodes.one.operator.nodes.standings()[1].lag or 0) > 0
    nodes.two.operator.nodes.beat()
    assert nodes.one.operator.nodes.standings()[1].lag == 0
    age(nodes, 16)
    _, gone = nodes.one.operator.nodes.standings()
    assert (gone.workers, gone.tokens, gone.lag) == (0, [], None)
    assert gone.last_heartbeat is not None
    assert "its server is gone" in str(gone.next)
    nodes.two.operator.nodes.beat()
    nodes.two.operator.nodes.end_beats()
    assert nodes.one.operator.nodes.standings()[1].last_heartbeat is None


def test_heartbeats_that_tell_nothing(nodes: Nodes) -> None:
    """One of the future, written before the clock was set back or by hand, shows no worker."""
    _, second = ids(nodes)
    nodes.two.operator.nodes.beat()
    age(nodes, -3600)
    assert nodes.one.operator.nodes.standings()[1].workers == 0
    assert nodes.one.operator.nodes.of_other_versions("0.0") == []
    with nodes.cluster.connect(name_of(str(nodes.site.settings.store.url))) as admin:
        admin.execute("UPDATE node_process SET seen_at = 9223372036854775807")
    assert nodes.one.operator.nodes.standings()[1].workers == 0
    assert nodes.one.operator.nodes.remove(second).id == second


def test_nodes_that_would_not_follow(nodes: Nodes) -> None:
    """Before a migration the nodes are named whose servers do not reach the token; this one's processes are not."""
    one, two = nodes.one.operator.nodes, nodes.two.operator.nodes
    _, second = ids(nodes)
    profile = nodes.one._core.device.profile
    assert [second in each for each in one.silent()] == [True]
    one.beat()
    two.beat()
    assert one.silent() == []
    assert one.without_token(profile.label, frozenset({profile.serial})) == []
    (lacking,) = one.without_token("another token", frozenset({"1234"}))
    assert lacking.startswith(f"node {second} (")
    assert one.of_other_versions(metadata.version("hsmkms")) == []
    assert len(one.of_other_versions("0.0")) == 1
    age(nodes, 16)
    assert one.without_token("another token", frozenset({"1234"})) == []


def test_a_drained_node(nodes: Nodes) -> None:
    """It says that it is not ready, and answers; the other one is ready. Undone it is ready again. It is recorded."""
    _, second = ids(nodes)
    assert nodes.one.operator.nodes.drain(second[:8], undo=False).drained_at == nodes.clock.now
    assert "this node is drained" in str(nodes.two.operator.watch.drained())
    assert nodes.one.operator.watch.drained() is None
    assert unseal(nodes.two, seal(nodes.two, new_key(nodes.one).key_id)) == b"secret"
    nodes.two.operator.nodes.drain(second, undo=True)
    assert nodes.two.operator.watch.drained() is None
    with pytest.raises(ConfigurationError, match="name one node by its id"):
        nodes.one.operator.nodes.drain("", undo=False)
    assert nodes.one.operator.audit.verify_rows() == []


def test_a_node_that_was_drained_by_hand(nodes: Nodes) -> None:
    """It is ready, and there is an alarm."""
    _, second = ids(nodes)
    with nodes.cluster.connect(name_of(str(nodes.site.settings.store.url))) as admin:
        admin.execute("UPDATE node SET drained_at = 1")
    assert nodes.two.operator.watch.drained() is None
    assert nodes.two.operator.watch.alarms().altered == {f"node/{second}"}


def test_a_removed_node(nodes: Nodes) -> None:
    """Not while it runs, and not by itself; afterwards its processes answer nothing, and its folder opens nothing."""
    first, second = ids(nodes)
    nodes.two.operator.nodes.beat()
    key_id = new_key(nodes.two).key_id
    with pytest.raises(ConfigurationError, match=r"has 1 running workers: stop its server first; .* 15 seconds"):
        nodes.one.operator.nodes.remove(second)
    with pytest.raises(ConfigurationError, match="is the one of this data folder"):
        nodes.one.operator.nodes.remove(first)
    age(nodes, 16)
    assert nodes.one.operator.nodes.remove(second).id == second
    assert [each.node for each in nodes.one.operator.nodes.standings()] == [first]
    for act in (lambda: seal(nodes.two, key_id), nodes.two.operator.maintain, nodes.two.operator.nodes.beat):
        with pytest.raises(StoreError, match="this node was removed from the installation"):
            act()
    with pytest.raises(StoreError, match=f"has the id {second}, which is not registered"):
        Store.open(nodes.two._core.store.folder, target=nodes.two._core.store.target)
    assert unseal(nodes.one, seal(nodes.one, key_id)) == b"secret"


def test_no_move_of_the_store_while_another_node_serves(nodes: Nodes) -> None:
    """migrate-store names the nodes whose servers run; stopped ones are in its way no more."""
    _, second = ids(nodes)
    nodes.two.operator.nodes.beat()
    nodes.one.close()
    with pytest.raises(ConfigurationError, match=f"servers run on other nodes .{second}.: stop them first"):
        move_store.move(nodes.site.settings, StoreSettings())
    nodes.two.operator.nodes.end_beats()
    move_store.move(nodes.site.settings, StoreSettings())
