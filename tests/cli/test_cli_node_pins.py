"""A PIN that was refused on one node, or changed there, is sent by no other node before a person confirms it."""

import shutil
from pathlib import Path

import pytest
import spylog
from cli_site import Site
from node_sites import Joining, node_of, softhsm_module
from postgresql_cluster import Cluster, name_of

REFUSED = "CKR_PIN_INCORRECT"


class Watched:
    """A node with a PIN file of its own, whose module is the spy."""

    def __init__(self, site: Site, pin: Path, spy: Path) -> None:
        module = softhsm_module(site)
        self.site, self.pin = site, site.folder / "own-pin"
        shutil.copy(pin, self.pin)
        text = site.config.read_text().replace(module, str(spy))
        kept = [line for line in text.splitlines() if not line.startswith("file = ")]
        kept.insert(kept.index("[token.pin]") + 1, f'file = "{self.pin}"')
        site.config.write_text("\n".join(kept) + "\n")
        self._environment = {"PKCS11SPY": module}

    def run(self, *arguments: object) -> tuple[str, list[str]]:
        """Run a command; what it said, and the answers to the PINs that it sent."""
        log = self.site.folder / "spy.log"
        log.unlink(missing_ok=True)
        result = self.site.run(*arguments, **self._environment, PKCS11SPY_OUTPUT=str(log))
        calls = spylog.named(spylog.read(log), "C_Login", "C_SetPIN")
        return result.stdout + result.stderr, [call.returned for call in calls]


@pytest.fixture
def one(first: Site, spy_path: Path) -> Watched:
    """The first node."""
    return Watched(first, first.data / "pin", spy_path)


@pytest.fixture
def two(first: Site, place: Site, joining: Joining, spy_path: Path) -> Watched:
    """Another one, on the same token."""
    assert joining.run(place).status == 0
    return Watched(place, first.data / "pin", spy_path)


def test_a_refused_pin(two: Watched, one: Watched, joining: Joining, cluster: Cluster, on_server: str) -> None:
    """Neither the other node sends its own, nor a joining one; each confirms it for itself, the refuser too."""
    right = one.pin.read_text()
    one.pin.write_text("wrong horse\n")
    assert REFUSED in one.run("list-keys")[1]
    for site in (one, two):
        said, sent = site.run("list-keys")
        assert ("doctor --retry-pin" in said, sent) == (True, [])
    assert f"refused the PIN of node {node_of(one.site)} at" in two.run("list-keys")[0]
    fresh = Site(folder=two.site.folder / "fresh")
    fresh.folder.mkdir()
    assert f"refused the PIN of node {node_of(one.site)}" in joining.run(fresh).error
    assert not fresh.data.exists()

    with cluster.connect(name_of(on_server)) as admin:  # with the rows the files remain
        admin.execute("DELETE FROM pin_notice")
    assert two.run("list-keys")[1] == []
    assert two.run("doctor", "--retry-pin")[1] == []
    assert REFUSED not in two.run("doctor", "--retry-pin", "--yes")[1]
    assert two.run("list-keys")[1] == ["CKR_OK"]
    assert one.run("list-keys")[1] == []
    one.pin.write_text(right)
    assert REFUSED not in one.run("doctor", "--retry-pin", "--yes")[1]
    assert one.run("list-keys")[1] == ["CKR_OK"]
    assert joining.run(fresh, module=softhsm_of(one)).status == 0


def test_a_changed_pin(two: Watched, one: Watched) -> None:
    """The answer names the other node, and so do its commands and list-nodes, until it has sent the new one."""
    changed = one.site.run("change-pin", "--generate", PKCS11SPY=softhsm_of(one)).stdout
    assert f'"StaleNodes": [\n        "{node_of(two.site)}"\n    ]' in changed
    said, sent = two.run("list-keys")
    assert (f"node {node_of(one.site)} changed the PIN of the token" in said, sent) == (True, [])
    listed = one.run("list-nodes", "--query", "Nodes[].[Pin]", "--output", "text")[0].splitlines()
    assert listed[0] == "None"
    assert f"was changed on node {node_of(one.site)} at" in listed[1]
    shutil.copy(one.pin, two.pin)
    assert two.run("list-keys")[1] == []
    assert REFUSED not in two.run("doctor", "--retry-pin", "--yes")[1]
    assert two.run("list-keys")[1] == ["CKR_OK"]
    assert one.run("list-nodes", "--query", "Nodes[].[Pin]", "--output", "text")[0] == "None\nNone\n"


def softhsm_of(node: Watched) -> str:
    """The module behind the spy."""
    return node._environment["PKCS11SPY"]
