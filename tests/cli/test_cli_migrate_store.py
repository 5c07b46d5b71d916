"""The command migrate-store: what it prints, what must be edited then, and what every command says of the old store."""

from collections.abc import Iterator

import pytest
from cli_site import Site
from postgresql_cluster import Cluster, name_of

SECRET = "first secret"  # noqa: S105 - a test's


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """An empty database of the test's own, for a user with a password."""
    cluster.admin.execute("DROP ROLE IF EXISTS guarded")
    cluster.admin.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{SECRET}'".encode())
    with cluster.database() as made:
        cluster.admin.execute(f"ALTER DATABASE {name_of(made)} OWNER TO guarded".encode())
        yield made.replace("hsmkms@", "guarded@")
    cluster.admin.execute("DROP ROLE guarded")


def password_file(site: Site, text: str) -> str:
    """A file with a password, closed to others."""
    file = site.folder / "password"
    file.touch(0o600)
    file.write_text(f"{text}\n")
    return str(file)


def configured(site: Site, steps: list[str]) -> None:
    """Change the configuration as the answer says."""
    assert [each.partition(" ")[0] for each in steps] == ["Write", "Write", "Then"], steps
    url, password = (each.partition(" under ")[0].removeprefix("Write ") for each in steps[:2])
    text = site.config.read_text()
    for section, line in (("[store]", url), ("[store.password]", password)):
        assert text.count(f"\n{section}\n") == 1
        text = text.replace(f"\n{section}\n", f"\n{section}\n{line}\n")
    site.config.write_text(text)


def test_there_and_back(site: Site, url: str) -> None:
    """With the configuration that it prints all is there, without it no command works; and so on the way back."""
    key_id = site.new_key()
    sealed = site.run("encrypt", "--key-id", key_id, "--plaintext", "aGVsbG8=").json["CiphertextBlob"]
    before = site.config.read_text()
    options = ("--to", url, "--store-password-file")
    wrong = site.run("migrate-store", *options, password_file(site, "no password"))
    assert "cannot be connected to" in wrong.stderr
    assert "no password" not in wrong.stderr
    moved = site.run("migrate-store", *options, password_file(site, SECRET))
    assert SECRET not in moved.stdout
    place = f"the PostgreSQL database {name_of(url)} on"
    for command in (("create-key",), ("migrate",), ("verify-store",), ("maintain",), ("serve", "--port", "0")):
        refused = site.run(*command)
        assert refused.status not in (0, 2), (command, refused)
        assert f"has moved to {place}" in refused.stderr, (command, refused)
        assert f'Write url = "{url.partition("?")[0]}?' in refused.stderr, (command, refused)
        assert "its password, if it wants one, under [store.password]" in refused.stderr, (command, refused)
        assert "Traceback" not in refused.stderr, command
    assert f"has moved to {place}" in site.run("doctor").stdout
    assert "has moved to" in site.run("migrate-store", *options, site.folder / "password").error
    assert "has moved to" in site.run("init", "--config", site.config).error
    assert "has moved to" in site.run("renew-log").error
    configured(site, moved.json["Next"])
    assert site.run("decrypt", "--ciphertext-blob", sealed).json["Plaintext"] == "aGVsbG8="
    assert site.run("verify-store").json == {"Faults": []}
    assert site.run("audit", "verify").json["Faults"] == []
    events = "".join(each.read_text() for each in (site.data / "audit").glob("*.jsonl"))
    assert '"MigrateStore"' in events
    assert '"CompleteMigrateStore"' in events

    back = site.run("migrate-store", "--to", "sqlite").json
    assert back["Next"] == [
        "Remove url, and what goes with it, from [store] and [store.password] in the configuration",
        "Then start the servers",
    ]
    assert "has moved to files in" in site.run("create-key").error
    site.config.write_text(before)
    assert site.run("decrypt", "--ciphertext-blob", sealed).json["Plaintext"] == "aGVsbG8="
    assert site.run("verify-store").json == {"Faults": []}
    assert site.run("audit", "verify").json["Faults"] == []
    assert "is one of hsmkms already" in site.run("migrate-store", *options, site.folder / "password").error


def test_options(shared: Site) -> None:
    """What contradicts itself is refused, and what cannot be undone asks first."""
    for options in ((), ("--to", "sqlite", "--reopen"), ("--reopen", "--cancel"), ("--cancel",)):
        assert shared.run("migrate-store", *options).status == 2, options
    assert "already" in shared.run("migrate-store", "--to", "sqlite").error
    assert "must begin with" in shared.run("migrate-store", "--to", "mysql://u@h/d").error
    holding = shared.run("migrate-store", "--to", "postgresql+psycopg://u:hunter2@h/d").error
    assert "must not hold a password" in holding
    assert "hunter2" not in holding
    assert "asks at a terminal" in shared.run("migrate-store", "--reopen").error
    assert "not marked as moved" in shared.run("migrate-store", "--reopen", "--yes").error
