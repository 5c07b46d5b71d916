"""Nodes of one installation on a PostgreSQL database, with one SoftHSM token: data folders on this machine."""

import json
from pathlib import Path
from typing import Any

from cli_site import Result, Site
from postgresql_cluster import name_of


def node_of(site: Site) -> str:
    """The id of a node."""
    return (site.data / "node-id").read_text().strip()


def copied(site: Site, folder: Path, url: str, other_url: str) -> Site:
    """A copy of a node's data folder, whose database is the one at another URL."""
    copy = site.copy(folder)
    copy.config.write_text(copy.config.read_text().replace(name_of(url), name_of(other_url)))
    return copy


class Joining:
    """How another node joins an installation whose token is in the folder of the first one."""

    def __init__(self, first: Site, url: str) -> None:
        self._first = first
        self._url = url

    def options(self, **others: object) -> list[object]:
        """The options of `hsmkms join`, some of them replaced; None leaves one out."""
        given: dict[str, object] = {
            "store_url": self._url,
            "module": softhsm_module(self._first),
            "token_label": "hsmkms",
            "pin_file": self._first.data / "pin",
            "environment": f"SOFTHSM2_CONF={self._first.data / 'softhsm/softhsm2.conf'}",
        } | others
        named = {f"--{name.replace('_', '-')}": value for name, value in given.items() if value is not None}
        return [part for pair in named.items() for part in pair]

    def run(self, site: Site, **others: object) -> Result:
        """Run `hsmkms join` for a folder."""
        return site.run("join", "--data-dir", site.data, *self.options(**others))


def softhsm_module(site: Site) -> str:
    """The module of an installation."""
    (line,) = (each for each in site.config.read_text().splitlines() if each.startswith("module"))
    return line.partition('"')[2].rstrip('"')


def answer(result: Result) -> Any:  # noqa: ANN401 - JSON
    """The answer of a command that must have succeeded; it may have warned."""
    assert result.status == 0, result
    return json.loads(result.stdout)
