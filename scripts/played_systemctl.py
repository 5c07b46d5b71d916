#!/usr/bin/env python3
"""Play systemctl where systemd does not run: start and stop hsmkms.service by its unit's own settings.

scripts/install-check puts this before the real one on the PATH of its root folder. It plays User=, ExecStart=, UMask=,
LoadCredential=, LoadCredentialEncrypted= and Type=notify, and not the unit's sandbox. The real systemctl does the rest
(enable, disable, is-enabled), which works without systemd.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SERVICE = "hsmkms.service"
PLACES = (Path("/etc/systemd/system"), Path("/usr/local/lib/systemd/system"))
CREDENTIALS = Path("/run/credentials") / SERVICE
STATE = Path("/run/played-systemd")
PID, LOG, NOTIFY = STATE / "pid", STATE / "log", STATE / "notify"
START_SECONDS, STOP_SECONDS = 120.0, 45.0


def settings() -> list[tuple[str, str]]:
    """Read the unit and its drop-ins: every setting in order."""
    unit = next(place / SERVICE for place in PLACES if (place / SERVICE).exists())
    files = [unit, *sorted(Path(f"{PLACES[0] / SERVICE}.d").glob("*.conf"))]
    lines = [line for file in files for line in file.read_text().splitlines() if not line.startswith(("#", "["))]
    return [(name, value) for name, equals, value in (line.partition("=") for line in lines) if equals]


def last(name: str) -> str:
    """Return the value that counts of a setting that has one."""
    return [value for each, value in settings() if each == name][-1]


def hand_over_credentials(user: str) -> None:
    """Copy what LoadCredential= names to memory that only the service's user can read."""
    loads: list[tuple[str, str]] = []
    for name, value in settings():
        if name in {"LoadCredential", "LoadCredentialEncrypted"}:
            loads = [*loads, (name, value)] if value else []
    CREDENTIALS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "ramfs", "-o", "mode=0700", "ramfs", CREDENTIALS], check=True)
    for name, value in loads:
        credential, _, path = value.partition(":")
        copy = CREDENTIALS / credential
        if name == "LoadCredential":
            shutil.copyfile(path, copy)
        else:
            subprocess.run(["systemd-creds", "decrypt", f"--name={credential}", path, copy], check=True)
        copy.chmod(0o400)
        shutil.chown(copy, user, user)
    shutil.chown(CREDENTIALS, user, user)
    CREDENTIALS.chmod(0o500)


def running() -> int | None:
    """Return the process of the service, if it is alive."""
    try:
        pid = int(PID.read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else pid


def start() -> int:
    """Start the service, and wait for READY=1."""
    if running() is not None:
        return 0
    STATE.mkdir(exist_ok=True)
    NOTIFY.unlink(missing_ok=True)
    user = last("User")
    hand_over_credentials(user)
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "USER": user,
        "LOGNAME": user,
        "HOME": "/var/lib/hsmkms",
        "CREDENTIALS_DIRECTORY": str(CREDENTIALS),
        "NOTIFY_SOCKET": str(NOTIFY),
    }
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--inh-caps=-all"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, LOG.open("ab") as log:
        manager.bind(str(NOTIFY))
        NOTIFY.chmod(0o777)
        manager.settimeout(0.2)
        process = subprocess.Popen(
            [*as_user, "--bounding-set=-all", "--no-new-privs", "--", *shlex.split(last("ExecStart"))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            umask=int(last("UMask"), 8),
            start_new_session=True,
        )
        PID.write_text(str(process.pid))
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if b"READY=1" in manager.recv(4096):
                    return 0
            except TimeoutError:
                continue
    print(f"{SERVICE} did not start (status {process.poll()}):\n{LOG.read_text()[-2000:]}", file=sys.stderr)
    stop()
    return 1


def stop() -> int:
    """End the service, and take its credentials away."""
    pid = running()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while running() is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    if CREDENTIALS.is_mount():
        subprocess.run(["umount", CREDENTIALS], check=True)
    return 0


def main() -> int:
    """Play the verbs that need a running systemd; leave the others to the real systemctl."""
    verb, *names = [word for word in sys.argv[1:] if not word.startswith("-")]
    if verb == "daemon-reload":
        return 0
    if verb not in {"start", "stop", "restart", "try-restart", "is-active"}:
        os.execv("/usr/bin/systemctl", ["systemctl", "--root=/", *sys.argv[1:]])
    if not {SERVICE, SERVICE.removesuffix(".service")} & {*names}:
        return 0  # the timer's unit, which is never started there
    if verb == "is-active":
        return 0 if running() is not None else 3
    if verb == "start":
        return start()
    if verb == "stop":
        return stop()
    return 0 if verb == "try-restart" and running() is None else stop() or start()


if __name__ == "__main__":
    sys.exit(main())
