"""Add a node to an installation whose database is on a server."""

from msgspec import Struct

from hsmkms.config.settings import Settings
from hsmkms.errors import BindingError, ConfigurationError, StoreError
from hsmkms.service.runtime import binding
from hsmkms.store import node_id, regions, setup
from hsmkms.store.nodes import Node
from hsmkms.wiring import core
from hsmkms.wiring.databases import close
from hsmkms.wiring.shared_marks import refused_elsewhere
from hsmkms.wiring.stores import open_store, target_of


class Joined(Struct, frozen=True):
    """An installation after a node has joined: its id, the new node, and all nodes."""

    installation: str
    node: str
    nodes: list[Node]


class Described(Struct, frozen=True):
    """What a database says of its installation, before anything of it is proven: the account, and regions with keys."""

    account: str
    regions: list[str]


def describe(settings: Settings) -> Described:
    """Return what a node's configuration needs to know. Nothing is sent to the token, and nothing is made.

    ConfigurationError if the database has no complete installation; else as ``Store.open`` raises.
    """
    target = target_of(settings)
    if target is None:
        raise ConfigurationError(
            "an installation whose databases are files of its data folder has one node: `hsmkms migrate-store` moves "
            "it to a server (`hsmkms guide nodes`)"
        )
    if not setup.exists(settings.data_dir, target):
        raise ConfigurationError(f"{target.name} has no installation: make the first node with `hsmkms init`")
    refused = refused_elsewhere(settings)
    if refused is not None:
        raise ConfigurationError(
            f"the token {refused.label!r} refused the PIN of node {refused.by}, and has accepted none from it since: "
            "correct it there first (`hsmkms doctor --retry-pin`), so that no node sends it the same one again"
        )
    store = open_store(settings, joining=True)
    try:
        row, _ = binding.expected(store)
        with store.reading() as conn:
            return Described(row.account, regions.in_use(conn))
    except BindingError:
        raise ConfigurationError(
            f"{target.name} has an installation whose `hsmkms init` was interrupted: finish it on its own node first"
        ) from None
    finally:
        store.close()


def join(settings: Settings) -> Joined:
    """Open the token, challenge it, and register the data folder as a node; without effect if it is one already."""
    opened = core.core_of(settings, joining=True)
    try:
        own = node_id.read(settings.data_dir)
        if own is None:
            raise StoreError(f"the file {node_id.FILE} in {settings.data_dir} is gone: run the command again")
        return Joined(opened.installation.id, own, core.registered_nodes(settings))
    finally:
        close(opened)
