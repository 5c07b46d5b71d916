"""Real clients, unmodified, each with its main job: those of scripts/client_table.py that the suite can afford."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
import warm
from client_jobs import NotInstalled, chain_of, development_server, do_job, holds
from client_table import CLIENTS, Client

from hsmkms.testing import Endpoint

SECONDS = 800
"""After which a client is given up."""

GUIDE_PAGE = pages.GUIDE / "programs.md"
RESOLVER = 'kms.WithEndpointResolver(kms.EndpointResolverFromURL(os.Getenv("AWS_ENDPOINT_URL_KMS")))'
SHOWN = {
    "AWS SDK for JavaScript 3": ("javascript", "photos.mjs", ("new KMSClient()", "node photos.mjs")),
    "AWS SDK for Go 2": (
        "go",
        "photos.go",
        (
            "kms.NewFromConfig(cfg)",
            f"kms.NewFromConfig(cfg, {RESOLVER})",
        ),
    ),
}
"""Clients with a program in the guide: its language and file, a part of it, and what the page says about that part.

Debian's SDK for Go is older than the variable for the endpoint, so there the second takes the place of the first.
"""


@pytest.fixture(scope="module")
def secure_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificate is of a server for clients that speak nothing but TLS."""
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def secure_endpoint(secure_folder: Path) -> Iterator[Endpoint]:
    """That server."""
    with development_server(secure_folder, tls=True) as endpoint:
        yield endpoint


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.suite], ids=lambda client: client.name)
def test_client(client: Client, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A client does its main job with nothing changed but endpoint, credentials and region."""
    endpoint = request.getfixturevalue("secure_endpoint" if client.tls else "hsmkms_endpoint")
    chain = chain_of(request.getfixturevalue("secure_folder")) if client.tls else None
    home = tmp_path / "home"
    home.mkdir()
    try:
        done = do_job(client, kit_of(client, tmp_path), endpoint, home, chain, SECONDS)
    except NotInstalled as exc:
        pytest.skip(str(exc))
    assert holds(done), f"{done.stdout}\n{done.stderr}"
    if client.name in SHOWN:
        name_a_key(endpoint, "alias/photos")
        shown = client._replace(program=str(shown_program(client, home)))
        done = do_job(shown, tmp_path, endpoint, home, chain, SECONDS)
        assert (done.returncode, done.stdout) == (0, "a secret of ours\n"), done.stderr


def test_java_of_the_guide(tmp_path: Path) -> None:
    """The Java program of the guide is Java; its SDK is in Maven's registry alone, so it is not compiled."""
    java = shutil.which("java")
    if java is None or shutil.which("javac") is None:
        pytest.skip("there is no java and javac here (Debian: default-jdk-headless)")
    (text,) = pages.blocks(GUIDE_PAGE.read_text(), "java")
    good, bad = tmp_path / "Photos.java", tmp_path / "Broken.java"
    good.write_text(text)
    bad.write_text(text.replace("{", "", 1))
    command = [java, Path(__file__).parent / "programs" / "ParseJava.java", good, bad]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    assert [line.rpartition("/")[2] for line in done.stdout.splitlines()] == ["Photos.java true", "Broken.java false"]


def shown_program(client: Client, folder: Path) -> Path:
    """The program that the guide shows for a client, in a file; with a change that the page gives for old versions."""
    language, name, (short, long) = SHOWN[client.name]
    (program,) = pages.blocks(GUIDE_PAGE.read_text(), language)
    assert f"`{long}`" in re.sub(r"\s+", " ", GUIDE_PAGE.read_text())
    assert program.count(short) == 1
    if language == "go":
        program = program.replace(short, long).replace('\t"log"\n', '\t"log"\n\t"os"\n')
    file = folder / name
    file.write_text(program)
    return file


def name_a_key(endpoint: Endpoint, alias: str) -> None:
    """Make a key with this alias, if there is none."""
    kms = endpoint.client()
    names = {each["AliasName"] for page in kms.get_paginator("list_aliases").paginate() for each in page["Aliases"]}
    if alias not in names:
        kms.create_alias(AliasName=alias, TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])


def kit_of(client: Client, folder: Path) -> Path:
    """Where the client's packages are: those of Python are development dependencies, those of npm are installed."""
    if client.program == "aws_story.sh":  # its 31 commands would import the aws CLI 31 times
        return warm.aws_kit()
    if not client.npm:
        return Path(sys.prefix)
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstalled("npm is not installed (Debian: nodejs npm)")
    options = ("--no-audit", "--no-fund", "--loglevel=error")
    installing = subprocess.run(
        [npm, "install", "--prefix", folder, *options, *client.npm],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd=folder,
    )
    if installing.returncode:
        raise NotInstalled(f"npm cannot install {' '.join(client.npm)} here: {installing.stderr.strip()[:200]}")
    return folder
