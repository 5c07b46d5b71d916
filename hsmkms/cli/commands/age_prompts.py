"""Prompt the person at the terminal for an age plugin: to touch a device, or to enter a PIN."""

import json

import typer

from hsmkms.cli.api.confirmations import at_a_terminal


class AgePerson:
    """Shows messages and prompts; without a terminal it answers none, and the plugin continues or fails."""

    def display_message(self, message: str) -> None:
        """Show a message."""
        typer.echo(_plain(message), err=True)

    def confirm(self, message: str, yes_string: str, no_string: str | None) -> bool | None:
        """Ask for a decision."""
        if not at_a_terminal():
            return None
        return typer.confirm(f"{_plain(message)} ({_plain(yes_string)}, or {_plain(no_string or 'no')})", err=True)

    def request_public_string(self, description: str) -> str | None:
        """Ask for a text."""
        return str(typer.prompt(_plain(description), err=True)) if at_a_terminal() else None

    def request_passphrase(self, description: str) -> str | None:
        """Ask for a secret, without echo."""
        return str(typer.prompt(_plain(description), hide_input=True, err=True)) if at_a_terminal() else None


def _plain(text: str) -> str:
    """Escape control characters."""
    return json.dumps(text)[1:-1]
