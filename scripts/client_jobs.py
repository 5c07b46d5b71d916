"""Runs the jobs of clients (client_table.py) against a development server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import boto3
from client_table import Client
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsmkms.testing import STOP_SECONDS, Endpoint, read_endpoint

DONE = "the story holds"
PROGRAMS = Path(__file__).parent.parent / "tests" / "clients"
GO_SOURCES = Path("/usr/share/gocode")
CERTIFICATE_VARIABLES = (
    *("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"),
)


class NotInstalled(Exception):
    """Something that a client needs is not here; the message says what."""


# -- the server -------------------------------------------------------------------------------------------------


@contextmanager
def development_server(folder: Path, *, tls: bool) -> Iterator[Endpoint]:
    """A fresh server, whose log and certificate (for TLS) are in the folder."""
    arguments = [sys.executable, "-m", "hsmkms", "serve", "--dev", "--until-stdin-ends"]
    if tls:
        chain, key = _make_certificate(folder)
        arguments += ["--certificate", str(chain), "--private-key", str(key)]
    pipe = subprocess.PIPE
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        try:
            yield read_endpoint(process)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def chain_of(folder: Path) -> Path | None:
    """The certificate of a server's folder, if it speaks TLS."""
    chain = folder / "chain.pem"
    return chain if chain.exists() else None


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, private


# -- the client -------------------------------------------------------------------------------------------------


def do_job(
    client: Client, kit: Path, endpoint: Endpoint, home: Path, chain: Path | None, seconds: float
) -> "subprocess.CompletedProcess[str]":
    """Run a client's program. NotInstalled where a tool of it is missing; ``kit``: where its packages are."""
    return run(_command(client, kit), seconds, cwd=home, env=_environment(client, kit, endpoint, home, chain))


def run(
    arguments: list[str], seconds: float, *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end. TimeoutExpired after so many seconds, when it and what it has started are ended."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="replace",
        cwd=cwd,
        env=env,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # nobody has waited for it yet, so the number is still its own
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def holds(done: "subprocess.CompletedProcess[str]") -> bool:
    """True if the program has done all that it should."""
    return done.returncode == 0 and done.stdout.splitlines()[-1:] == [DONE]


def version_of(client: Client, kit: Path) -> str:
    """The version of the client that is installed."""
    if client.version:
        path = f"{kit / 'bin'}:{os.environ['PATH']}"
        return _printed(["bash", "-c", client.version], env={**os.environ, "PATH": path, "CLIENT_KIT": str(kit)})
    if client.python:
        asked = f"import importlib.metadata as m; print(m.version({_bare(client.python[0])!r}))"
        return _printed([str(kit / "bin" / "python"), "-c", asked])
    if client.npm:
        manifest = kit / "node_modules" / _bare(client.npm[0]) / "package.json"
        return str(json.loads(manifest.read_text())["version"])
    return _printed(["dpkg-query", "--show", "--showformat=${Version}", client.debian[0]])


def _printed(arguments: list[str], env: dict[str, str] | None = None) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, env=env).stdout.strip()


def _bare(requirement: str) -> str:
    """The name of a package without its extras or version."""
    return re.split(r"(?<=.)[@\[<>=]", requirement, maxsplit=1)[0]


def _command(client: Client, kit: Path) -> list[str]:
    program = PROGRAMS / client.program
    for name in client.tools:
        _tool(name, name)
    match program.suffix:
        case ".py":
            words = [str(kit / "bin" / "python")]
        case ".mjs":
            # Packages are looked for beside the program, so it runs beside node_modules.
            shutil.copy(PROGRAMS / "ethereum.mjs", kit)
            words, program = [_tool("node", "nodejs", "npm")], Path(shutil.copy(program, kit))
        case ".go":
            words = [_go(client, program), "run"]
        case ".java":
            _tool("javac", *client.debian)
            jars = ":".join(str(jar) for jar in sorted(kit.rglob("*.jar")))
            words = [_tool("java", *client.debian), *(("-cp", jars) if jars else ())]
        case suffix:
            words = [_tool({".rb": "ruby", ".sh": "bash"}[suffix], *client.debian)]
    return [*words, str(program)]


def _tool(name: str, *packages: str) -> str:
    """The path of a tool. NotInstalled, with what to install, if there is none."""
    path = shutil.which(name)
    if path is None:
        raise NotInstalled(f"{name} is not installed (Debian: {' '.join(packages)})")
    return path


def _go(client: Client, program: Path) -> str:
    """The path of go, where the libraries that the program imports are installed by Debian."""
    quoted = [line.strip().strip('"') for line in program.read_text().splitlines() if line.startswith('\t"')]
    if not all((GO_SOURCES / "src" / path).is_dir() for path in quoted if path.startswith("github.com/")):
        raise NotInstalled(f"its library is not installed (Debian: {' '.join(client.debian)})")
    return _tool("go", *client.debian)


def _environment(client: Client, kit: Path, endpoint: Endpoint, home: Path, chain: Path | None) -> dict[str, str]:
    """What a client finds in its environment: endpoint, credentials, a key of its own, and nothing of the user's."""
    tools = [kit / "bin", kit / "node_modules" / ".bin"]
    variables = {
        "PATH": f"{':'.join(map(str, tools))}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "AWS_PAGER": "",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CLIENT_KIT": str(kit),
    }
    if client.program.endswith(".go"):
        variables |= {"GOPATH": str(GO_SOURCES), "GO111MODULE": "off", "GOCACHE": _printed(["go", "env", "GOCACHE"])}
    if chain is not None:
        variables |= dict.fromkeys(CERTIFICATE_VARIABLES, str(chain))
    return variables | endpoint.environment() | _new_key(client, endpoint, chain)


def _new_key(client: Client, endpoint: Endpoint, chain: Path | None) -> dict[str, str]:
    """The names of a key that boto3 has made."""
    kms = boto3.client(
        "kms",
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key_id,
        aws_secret_access_key=endpoint.secret_access_key,
        verify=None if chain is None else str(chain),
    )
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in client.name.lower()).split())
    spec, usage = client.key
    key = kms.create_key(KeySpec=spec, KeyUsage=usage, Description=client.job)["KeyMetadata"]
    alias = f"alias/{name}-{key['KeyId'][:8]}"
    kms.create_alias(AliasName=alias, TargetKeyId=key["KeyId"])
    return {"KEY_ID": key["KeyId"], "KEY_ARN": key["Arn"], "KEY_ALIAS": alias}
