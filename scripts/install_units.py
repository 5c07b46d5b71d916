"""What systemd makes of the units, where scripts/install-check has booted it; used by scripts/install_check.py.

Each step begins and ends with a running service.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

from install_machine import DATA, ETC, check, run, server

SERVICE = "hsmkms.service"
CREDENTIAL = Path("/run/credentials") / SERVICE / "pin"
MAINTAIN, TIMER = "hsmkms-maintain.service", "hsmkms-maintain.timer"
TIMER_DROP_IN = Path("/etc/systemd/system") / f"{TIMER}.d" / "soon.conf"
EXPOSURE_LIMIT = 2.0
SECONDS = 60.0


def credential() -> None:
    """The PIN reaches the service as a credential that no other user can read."""
    check(CREDENTIAL.is_file(), f"the PIN is in {CREDENTIAL}")
    run(f"runuser -u nobody -- cat {CREDENTIAL}", status=1)
    (main,) = [process for process in server() if process.name == shown("MainPID")]
    environment = (main / "environ").read_bytes().split(b"\0")
    check(f"CREDENTIALS_DIRECTORY={CREDENTIAL.parent}".encode() in environment, "the service knows where its PIN is")
    check(shown("ExecMainStatus") == "0", "the service has not been ended")


def sandbox() -> None:
    """Every process of the service is without rights, and sees what the unit leaves it to see."""
    elsewhere = Path("/tmp/of-another-program")  # noqa: S108 - which the unit's own /tmp hides
    elsewhere.touch()
    for process in server():
        status = dict(re.findall(r"^(\w+):\s+(.*)$", (process / "status").read_text(), re.MULTILINE))
        limits = (process / "limits").read_text()
        check(status["NoNewPrivs"] == "1", "no process can gain rights")
        check(status["Seccomp"] == "2", "system calls are filtered")
        check({int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}, "no capabilities")
        check(re.search(r"Max core file size +0 +0 ", limits), "no core file is written")
        inside = f"nsenter --target {process.name} --mount --setuid $(id -u hsmkms) --setgid $(id -g hsmkms) --"
        for folder in ("/usr", "/etc", "/var/lib", "/root", "/home"):
            run(f"{inside} touch {folder}/written 2>/dev/null", status=1)
        run(f"{inside} sh -c 'touch {DATA}/written && rm {DATA}/written'")
        check(not run(f"{inside} ls /home /root 2>/dev/null || true"), "no user's files are seen")
        run(f"{inside} ls {elsewhere}", status=2)
        devices = run(f"{inside} find /dev -type b")
        check(not devices, f"no disk is seen: {devices}")
    check(shown("MemorySwapMax") == "0", "memory is not swapped")
    analysis = run(f"systemd-analyze security {SERVICE}")
    exposure = re.search(r"Overall exposure level for hsmkms.service: ([0-9.]+)", analysis)
    check(exposure and float(exposure[1]) < EXPOSURE_LIMIT, f"systemd finds the unit closed: {exposure}")


def reload() -> None:
    """A reload replaces the workers, and leaves the main process."""
    main, before = shown("MainPID"), server()
    run("systemctl reload hsmkms")
    until(lambda: {*before} & {*server()} == {Path("/proc", main)}, "all workers are new ones")
    check(shown("MainPID") == main, "the main process is the same")


def restart() -> None:
    """The service comes back by itself after a kill, is ready when start returns, and stops in time."""
    main, restarts = shown("MainPID"), int(shown("NRestarts"))
    run(f"kill -KILL {main}")
    until(lambda: int(shown("NRestarts")) > restarts and shown("ActiveState") == "active", "systemd starts it again")
    check(shown("MainPID") != main, "by a new process")
    run("systemctl restart hsmkms && curl --silent --fail http://127.0.0.1:8443/readyz")
    began = time.monotonic()
    run("systemctl stop hsmkms")
    check(time.monotonic() - began < SECONDS / 2, "the service stops before systemd kills it")
    check(shown("Result") == "success", f"a stop is no failure: {shown('Result')}")
    run("systemctl start hsmkms && curl --silent --fail http://127.0.0.1:8443/readyz")


def refused_pin() -> None:
    """A refused PIN ends the service with status 78, and systemd does not send it again."""
    pin = (ETC / "pin").read_bytes()
    (ETC / "pin").write_bytes(b"9999999\n")
    run("systemctl restart hsmkms", status=1)
    check((shown("ExecMainStatus"), shown("NRestarts")) == ("78", "0"), "the service is not started again")
    check(shown("ActiveState") == "failed", "the unit has failed")
    (ETC / "pin").write_bytes(pin)
    run("systemctl start hsmkms", status=1)
    run("hsmkms doctor --retry-pin --yes")
    run("systemctl start hsmkms")


def maintenance() -> None:
    """The timer starts hsmkms maintain, which ends well and fills no journal."""
    run(f"systemctl start {MAINTAIN}")
    check(shown("Result", MAINTAIN) == "success", "maintain ends well under its unit")
    TIMER_DROP_IN.parent.mkdir()
    TIMER_DROP_IN.write_text("[Timer]\nOnCalendar=\nOnActiveSec=1\nRandomizedDelaySec=0\nAccuracySec=1\n")
    first = shown("InvocationID", MAINTAIN)
    run(f"systemctl daemon-reload && systemctl enable --now {TIMER}")
    until(lambda: shown("InvocationID", MAINTAIN) not in {"", first}, "the timer starts the service")
    until(lambda: shown("ActiveState", MAINTAIN) != "activating", "maintain ends")
    check(shown("Result", MAINTAIN) == "success", "maintain ends well when the timer starts it")
    TIMER_DROP_IN.unlink()
    run(f"systemctl daemon-reload && systemctl restart {TIMER}")
    check(TIMER in run("systemctl list-timers"), "the timer waits for the next quarter of an hour")
    check('"Steps"' not in run(f"journalctl --unit {MAINTAIN} --output cat"), "the report stays out of the journal")
    run(f"systemctl disable --now {TIMER}")


def shown(name: str, unit: str = SERVICE) -> str:
    """Return a property of a unit."""
    return run(f"systemctl show --value --property {name} {unit}").strip()


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until it holds; end with what does not."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        check(time.monotonic() < deadline, what)
        time.sleep(0.2)
