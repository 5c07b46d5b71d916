"""The machine of scripts/install_check.py: commands that run there, and what is looked at afterwards."""

import json
import socket
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.resolve()
WORK = Path("/root/work")
OPT, ETC, DATA = Path("/opt/hsmkms"), Path("/etc/hsmkms"), Path("/var/lib/hsmkms")
DROP_INS = Path("/etc/systemd/system/hsmkms.service.d")
PORT_DROP_IN = DROP_INS / "port.conf"
PLAINTEXT = "aGFsbG8gd2VsdA=="


def use_free_port() -> None:
    """Let the unit serve a free port: the network is not this machine's alone. Commands of ``run`` get it for 8443."""
    if not PORT_DROP_IN.exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            number = probe.getsockname()[1]
        lines = (CHECKOUT / "conf" / "systemd" / "hsmkms.service").read_text().splitlines()
        (command,) = [line for line in lines if line.startswith("ExecStart=")]
        DROP_INS.mkdir(parents=True, exist_ok=True)
        PORT_DROP_IN.write_text(f"[Service]\nExecStart=\n{command} --port {number}\n")
        run("systemctl daemon-reload")


def port() -> str:
    """Return the port of the service."""
    return PORT_DROP_IN.read_text().split()[-1] if PORT_DROP_IN.exists() else "8443"


def run(command: str, cwd: Path = CHECKOUT, status: int = 0) -> str:
    """Run a command line as root; return what it printed. Fails unless it ends with the status (-1: any but 0)."""
    command = command.replace(":8443/", f":{port()}/")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode != status and not (status < 0 < done.returncode):
        sys.exit(f"status {done.returncode} of: {command}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def check(holds: object, what: str) -> None:
    """End with what does not hold."""
    if not holds:
        sys.exit(f"does not hold: {what}")


def current() -> str:
    """Return the number of the version that is in use."""
    return (OPT / "current").resolve().name.partition("-")[0]


def state() -> dict[str, tuple[object, ...]]:
    """Describe every file that scripts/install may write, but for the data."""
    places = [OPT, ETC, Path("/usr/local"), Path("/etc/systemd")]
    files = [path for place in places for path in (place, *place.rglob("*"))]
    looks = ((path, path.lstat()) for path in files)
    return {str(path): (each.st_ino, each.st_mode, each.st_uid, each.st_mtime_ns) for path, each in looks}


def server() -> list[Path]:
    """Return the processes of the service."""
    run("systemctl is-active hsmkms")
    return [each.parent for each in Path("/proc").glob("[0-9]*/cmdline") if b"hsmkms\0--config" in each.read_bytes()]


def encrypt_by_http() -> str:
    """Encrypt by a signed request of alice with curl; return the ciphertext."""
    alice = json.loads((WORK / "alice.json").read_text())
    secret = WORK / "curl.conf"
    secret.write_text(f'user = "{alice["AccessKeyId"]}:{alice["SecretAccessKey"]}"\n')
    body = json.dumps({"KeyId": "alias/first", "Plaintext": PLAINTEXT})
    answer = run(
        f"curl --silent --config {secret} --aws-sigv4 aws:amz:us-east-1:kms http://127.0.0.1:8443/ "
        "-H 'X-Amz-Target: TrentService.Encrypt' -H 'Content-Type: application/x-amz-json-1.1' "
        f"--data '{body}'"
    )
    check("CiphertextBlob" in answer, f"Encrypt over HTTP answers with a ciphertext: {answer}")
    return str(json.loads(answer)["CiphertextBlob"])


def decrypts(ciphertext: str) -> None:
    """Decrypt by the command."""
    text = run(f"hsmkms decrypt --ciphertext-blob {ciphertext} --query Plaintext --output text").strip()
    check(text == PLAINTEXT, f"what was encrypted decrypts: {text}")


def works() -> None:
    """Check that the service answers, encrypts, and decrypts what was encrypted at first."""
    run("curl --silent --fail http://127.0.0.1:8443/readyz")
    decrypts((WORK / "first.encrypted").read_text())
    decrypts(encrypt_by_http())
