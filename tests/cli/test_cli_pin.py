"""change-pin: the new PIN holds for the token and in its file, and no interruption leaves neither."""

import signal

import pytest
from cli_site import Site


def pin(site: Site) -> str:
    """What is in the PIN file."""
    return (site.data / "pin").read_text().rstrip("\n")


def works(site: Site) -> bool:
    """A command that logs in succeeds."""
    return site.run("list-keys").status == 0


SOURCES: list[tuple[list[str], dict[str, str]]] = [
    (["--new-pin-file", "new"], {}),
    (["--new-pin-environment", "HSMKMS_NEW_PIN"], {"HSMKMS_NEW_PIN": "a new PIN"}),
    (["--new-pin-command", "echo 'a new PIN'"], {}),
]


@pytest.mark.parametrize(("options", "environment"), SOURCES)
def test_sources(site: Site, options: list[str], environment: dict[str, str]) -> None:
    """The new PIN may come from a file, the environment or a command; it replaces the old one, and is recorded."""
    (site.folder / "new").write_text("a new PIN\n")
    (site.folder / "new").chmod(0o600)
    answer = site.run("change-pin", *options, **environment).json
    assert answer == {"PinFile": str(site.data / "pin"), "Outcome": "changed"}
    assert pin(site) == "a new PIN"
    assert (site.data / "pin").stat().st_mode & 0o777 == 0o600
    assert works(site)
    assert not (site.data / "pin.new").exists()
    tail = site.run("audit", "tail", "-n", "2", "--query", "Records[].eventName", "--output", "text").stdout
    assert tail == "ChangePin\tListKeys\n"


def test_generated(site: Site) -> None:
    """A PIN that is generated is another one each time, and is not shown."""
    seen = {pin(site)}
    for _ in range(2):
        result = site.run("change-pin", "--generate")
        assert result.status == 0
        seen.add(pin(site))
        assert pin(site) not in result.stdout + result.stderr
        assert works(site)
    assert len(seen) == 3


def test_refused(site: Site) -> None:
    """A PIN that the token does not take, that is empty, or that has two sources changes nothing."""
    before = pin(site)
    short = site.run("change-pin", "--new-pin-environment", "P", P="x")
    assert short.error.startswith("PinError: the token does not take such a PIN")
    assert site.run("change-pin", "--new-pin-environment", "P", P="").error.startswith("PinError: ")
    assert site.run("change-pin", "--generate", "--new-pin-environment", "P").status == 2
    assert site.run("change-pin").status == 2
    assert (pin(site), works(site)) == (before, True)
    assert not (site.data / "pin.new").exists()


def test_pin_from_elsewhere(site: Site) -> None:
    """Where the PIN comes from a place that hsmkms cannot change, it says what to do."""
    text = site.config.read_text()
    site.config.write_text(text.replace('file = "pin"', 'environment = "HSMKMS_PIN"'))
    refused = site.run("change-pin", "--generate", HSMKMS_PIN=pin(site))
    assert refused.error.startswith("ConfigurationError: the PIN comes from token.pin.environment, which hsmkms cannot")


def test_interrupted(site: Site) -> None:
    """Killed when the token knows the new PIN, a change is finished by the next one; doctor says so before."""
    site.program("interrupt_pin_change", status=-signal.SIGKILL)
    assert (site.data / "pin.new").read_text() == "another PIN\n"
    doctor = site.run("doctor", "--query", "Checks[?Check=='PIN'].Detail | [0]")
    assert (doctor.status, "run `hsmkms change-pin`" in doctor.stdout) == (1, True)
    finished = site.run("change-pin").json
    assert finished["Outcome"] == "an interrupted change was finished: the new PIN holds"
    assert (pin(site), works(site)) == ("another PIN", True)
    assert not (site.data / "pin.new").exists()


def test_interrupted_in_the_first_step(site: Site) -> None:
    """An empty file for the new PIN blocks no command: the token has never had the new one."""
    before = pin(site)
    (site.data / "pin.new").touch(0o600)
    assert site.run("change-pin").json["Outcome"] == "an interrupted change was finished: the old PIN holds"
    assert (pin(site), works(site)) == (before, True)
    assert site.run("change-pin", "--generate").json["Outcome"] == "changed"


def test_interrupted_earlier(site: Site) -> None:
    """Killed before the token knew it, the old PIN holds."""
    before = pin(site)
    (site.data / "pin.new").write_text("another PIN\n")
    (site.data / "pin.new").chmod(0o600)
    assert site.run("change-pin").json["Outcome"] == "an interrupted change was finished: the old PIN holds"
    assert (pin(site), works(site)) == (before, True)
