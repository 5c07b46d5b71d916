"""Commands about the nodes of an installation on a database server: list-nodes, drain-node, remove-node."""

from typing import Annotated

import typer

from hsmkms.cli.api.confirmations import at_a_terminal
from hsmkms.cli.commands.setup import PANEL
from hsmkms.cli.options import Common, named, with_common
from hsmkms.errors import ConfigurationError

NodeOption = Annotated[
    str, typer.Option("--node", metavar="ID", help="Id of the node, or its beginning, as list-nodes shows it.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list-nodes", rich_help_panel=PANEL)(list_nodes)
    app.command("drain-node", rich_help_panel=PANEL)(drain_node)
    app.command("remove-node", rich_help_panel=PANEL)(remove_node)


@with_common("config", "output", "query")
def list_nodes(common: Common) -> None:
    """List the nodes: the workers of their servers that run, their versions, the tokens that they reach.

    LastHeartbeat is by the database's clock; a worker beats every few seconds and counts as running for 15 seconds.
    Lag: how many changes its slowest worker has not read yet. Programs and commands that open the installation
    by themselves do not beat.

    Example: hsmkms list-nodes
    """
    with common.open() as kms:
        standings = kms.operator.nodes.standings()
    common.show({"Nodes": [named(each) for each in standings]})


@with_common("config", "output", "query")
def drain_node(
    common: Common,
    *,
    node: NodeOption,
    undo: Annotated[bool, typer.Option("--undo", help="Let it get requests again.")] = False,
) -> None:
    """Let the server of a node say that it is not ready (/readyz), so that a load balancer sends it no new requests.

    It still answers what it is sent. When the balancer has taken it out, stop the server, which finishes the
    requests that it has begun. The state is in the database and outlives a restart.

    Example: hsmkms drain-node --node 4f1c
    """
    with common.open() as kms:
        common.show(named(kms.operator.nodes.drain(node, undo=undo)))


@with_common("config", "output", "query")
def remove_node(
    common: Common, *, node: NodeOption, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Remove a node that is lost or not needed any more: its data folder cannot open the installation again.

    Refused for the node of this data folder, and while a worker of the node runs. Copy its audit log first if you can:
    what only its disk has cannot be verified without it.

    Example: hsmkms remove-node --node 4f1c
    """
    if not yes:
        if not at_a_terminal():
            raise ConfigurationError("remove-node asks at a terminal: run it there, or with --yes")
        typer.confirm(f"The data folder of node {node} cannot be used again. Go on?", abort=True, err=True)
    with common.open() as kms:
        removed = kms.operator.nodes.remove(node)
    common.show({"Node": removed.id, "Host": removed.host, "Folder": removed.folder})
