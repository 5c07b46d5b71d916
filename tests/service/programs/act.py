"""Do one act at a given instant; it may be killed, or wait for a line, at one of its steps. Prints the outcome.

Arguments: configuration, instant (ISO), what happens at which step (``kill rotate 2``, ``wait rotate 1``, or nothing),
then ``maintain``, ``rotate-own`` and a purpose (and ``destroy``), or an operation and the body of its request. Ready
once everything is open, it waits for a line or for the end of standard input.
"""

import logging
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from service_sites import report

from hsmkms.config import settings as config
from hsmkms.errors import HsmKmsError
from hsmkms.kms import Kms
from hsmkms.model.enums import Operation
from hsmkms.model.wire import decode_request, to_wire
from hsmkms.wiring import core as wiring

_, file, instant, happening, what, *body = sys.argv
logging.getLogger("hsmkms").addHandler(logging.NullHandler())


def pause() -> None:
    """Report the step to the test, and wait for its line."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def reached(done: str) -> None:
    """What happens at this step."""
    how, _, step = happening.partition(" ")
    if step and done.startswith(step):
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        pause()


def act(kms: Kms) -> Any:  # noqa: ANN401 - any JSON value
    """Do it."""
    if what == "maintain":
        done = kms.operator.maintain()
        return {"busy": done.busy, "outcomes": [step.outcome for step in done.steps]}
    if what == "rotate-own":
        done = kms.operator.rotate_installation_key(body[0], destroy_older="destroy" in body)
        return {"version": done.version, "outcome": done.outcome, "kept": [each.kept for each in done.older]}
    operation = Operation(what)
    answer = getattr(kms, operation.name.lower())(decode_request(operation, body[0].encode()))
    return {} if answer is None else {name: str(value) for name, value in to_wire(answer).items()}


with Kms(wiring.core_of(config.load(Path(file)), lambda: datetime.fromisoformat(instant))) as kms:
    kms._core.reached = reached
    pause()
    try:
        report(act(kms))
    except HsmKmsError as exc:
        report({"error": exc.code})
