"""What the server sends to a service manager."""

import socket
from pathlib import Path

import pytest

from hsmkms.server.process import systemd


def test_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY=1 goes to the socket that systemd names, by path or by abstract name; without one nothing happens."""
    for address, address_shown in (
        (str(tmp_path / "notify"), str(tmp_path / "notify")),
        ("\0hsmkms-test", "@hsmkms-test"),
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address)
            manager.settimeout(60)
            monkeypatch.setenv(systemd.VARIABLE, address_shown)
            systemd.ready()
            assert manager.recv(100) == b"READY=1"
    monkeypatch.delenv(systemd.VARIABLE)
    systemd.ready()
