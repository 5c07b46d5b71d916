"""A KMS for your own test suite: pytest fixtures that start ``hsmkms serve --dev``.

It is installed with hsmkms, as a pytest plugin. ``hsmkms_endpoint`` is one server for the whole run, ``kms_client`` a
boto3 client for it. SoftHSM must be installed (Debian: softhsm2); for ``kms_client`` boto3 as well.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest

STOP_SECONDS: Final = 30.0


class Endpoint(NamedTuple):
    """Where the server listens, and the credentials of its account's root."""

    url: str
    region: str
    access_key_id: str
    secret_access_key: str

    def environment(self) -> dict[str, str]:
        """Return the variables that AWS's tools and SDKs read."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL_KMS": self.url,
        }

    def client(self, region: str | None = None) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
        """Return a boto3 client for KMS, in the default region or in another one: all of AWS's are served."""
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - optional: only this method needs it

        return boto3.client(
            "kms",
            endpoint_url=self.url,
            region_name=region or self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
        )


@pytest.fixture(scope="session")
def hsmkms_endpoint() -> Iterator[Endpoint]:
    """Start a server for this test run; all its data is removed afterwards."""
    command = [sys.executable, "-m", "hsmkms", "serve", "--dev", "--until-stdin-ends"]
    pipe = subprocess.PIPE  # it closes when this process ends, however that happens, and the server then stops
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ.copy()) as process:
        try:
            yield read_endpoint(process)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


@pytest.fixture
def kms_client(hsmkms_endpoint: Endpoint) -> Any:  # noqa: ANN401 - see Endpoint.client
    """Return a boto3 client for the server."""
    return hsmkms_endpoint.client()


def read_endpoint(process: "subprocess.Popen[str]") -> Endpoint:
    """Read the endpoint that the server prints when it is ready. RuntimeError if it ends before."""
    variables: dict[str, str] = {}
    for line in process.stdout or ():
        name, _, value = line.removeprefix("export ").strip().partition("=")
        variables[name] = value
        if name == "AWS_ENDPOINT_URL_KMS":
            return Endpoint(
                variables["AWS_ENDPOINT_URL_KMS"],
                variables["AWS_DEFAULT_REGION"],
                variables["AWS_ACCESS_KEY_ID"],
                variables["AWS_SECRET_ACCESS_KEY"],
            )
    raise RuntimeError(f"hsmkms serve --dev ended with status {process.wait()}: see its message above")
