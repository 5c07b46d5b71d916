"""``token-check``: try everything that hsmkms needs of a token, in processes of its own.

A module that crashes ends the process that makes the checks, and nothing else: the crash is a finding of the check that
was being made, and another process makes the rest. So a token can be checked before there is an installation, without
harm to this process. The PIN goes to that process through a pipe.
"""

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from hsmkms.errors import ModuleError
from hsmkms.hsm.checks.bench import NO_INSTALLATION, SEND_REPORT
from hsmkms.hsm.checks.messages import CLOSING, LOGIN, MODULE, SESSIONS, TOKEN, Job, Message, Pin, module_facts
from hsmkms.hsm.checks.refused import NAME as REFUSED
from hsmkms.hsm.checks.steps import BEFORE_LOGIN, CLEAN_UP, EVERYTHING, STEPS
from hsmkms.model.token_check import Check, CheckReport, Outcome
from hsmkms.secret import Secret

__all__ = ["ALL", "OPTIONAL", "Check", "CheckReport", "Job", "Outcome", "pin_of", "run_checks"]

PROGRAM: Final = "hsmkms.hsm.check_process"
SECONDS: Final = 300.0
"""How long one check may take: a smart card needs minutes for an RSA-4096 key."""

OPTIONAL: Final = tuple(name for each in STEPS if not each.needed for name in each.names if name != CLEAN_UP)
"""Names of the checks that no token fails: it only can do less."""

HEAP_UNCHECKED: Final[Mapping[str, str]] = MappingProxyType({})
HEAP_CHECKS: Final[Mapping[str, str]] = MappingProxyType({"MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"})
"""With these glibc aborts a process that writes beyond its allocations, or frees them twice. Where there is no such
library the loader says so, and goes on."""

_CHUNK: Final = 65536
_UNLESS_MADE: Final = f"{EVERYTHING}: {NO_INSTALLATION}"
_AFFECTS: Final = {name: each.affected_by(Outcome.UNTRIED) for each in (*BEFORE_LOGIN, *STEPS) for name in each.names}
_REQUIRED: Final = (MODULE, TOKEN, LOGIN)
"""Checks without which no other can be made."""

ALL: Final = (
    *(MODULE, TOKEN),
    *(name for each in BEFORE_LOGIN for name in each.names),
    *(LOGIN, SESSIONS),
    *(name for each in STEPS for name in each.names),
    CLOSING,
)
"""Names of all checks, in the order in which they are made and shown."""

_CRASHES_HERE: Final = (
    "a server would lose a worker in the same way: do not use these operations with this version of the module, and "
    f"{SEND_REPORT}, also to its vendor"
)


def pin_of(secret: Secret) -> Pin:
    """Prepare a PIN for the pipe."""
    origin = secret.origin
    if origin is None:
        return Pin(text=secret.reveal(), insisted=secret.insisted)
    return Pin(
        text=secret.reveal(),
        name=origin.name,
        version=origin.version,
        comparable=origin.comparable,
        typed=origin.typed,
        insisted=secret.insisted,
    )


def run_checks(job: Job, seconds: float = SECONDS) -> CheckReport:
    """Make every check on a token but those that the job calls done; nothing is left on it.

    ``seconds``: limit for each check. ModuleError if the checking process cannot be started. Material that is to be
    refused is tried in a process of its own, whose memory glibc checks: damage may show much later, or never, else.
    """
    made: dict[str, Check] = {}
    facts: dict[str, Any] = {"Module": module_facts(job)}
    if {*ALL} - {*job.done, REFUSED}:
        _make(replace(job, done=(*job.done, REFUSED)), seconds, made, facts, HEAP_UNCHECKED)
    if REFUSED not in job.done and not {*_REQUIRED} & {name for name, each in made.items() if not each.passed}:
        others = tuple(name for name in ALL if name != REFUSED)
        alone: dict[str, Check] = {}
        _make(replace(job, done=others), seconds, alone, facts, HEAP_CHECKS)
        made |= {name: each for name, each in alone.items() if name == REFUSED}
    names = [name for name in ALL if name not in job.done]
    for name in names:
        made.setdefault(name, _untried(name, made))
    return CheckReport(checks=[made[name] for name in names], facts=facts)


def _make(
    job: Job, seconds: float, made: dict[str, Check], facts: dict[str, Any], environment: Mapping[str, str]
) -> None:
    """Make checks in as many processes as it takes: one that crashes leaves the rest to another."""
    while True:
        before = len(made)
        ending = _run_once(replace(job, done=(*job.done, *made)), seconds, made, facts, environment)
        if ending is None:
            break
        unfinished, reason = ending
        if not unfinished and len(made) == before:
            raise ModuleError(f"the process that checks the module {reason} before it began: its error output says why")
        made.update({name: _crashed(name, reason) for name in unfinished})
        if set(unfinished) & {*_REQUIRED, CLOSING}:
            break


def _run_once(
    job: Job,
    seconds: float,
    made: dict[str, Check],
    facts: dict[str, Any],
    environment: Mapping[str, str] = HEAP_UNCHECKED,
) -> tuple[tuple[str, ...], str] | None:
    """Run one process; None if it made all checks, else the unfinished ones, and how the process ended."""
    unfinished: tuple[str, ...] = ()
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM, str(writer)],
            stdin=subprocess.PIPE,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,  # for the answers of this program alone; a module may print there
            pass_fds=(writer,),  # the module's variables are set in there, as in a server: not for Python or the loader
        )
        os.close(writer)
        try:
            _send(process, job)
            finished = False
            for message in _messages(pipe.fileno(), seconds):
                for each in message.checks:
                    made.setdefault(each.name, each)
                facts.update(message.facts)
                unfinished, finished = message.begins, message.finished
        except TimeoutError:
            process.kill()
            process.wait()
            return unfinished, f"did not answer for {seconds:g} seconds, and was killed"
        except BaseException:  # an interrupt, say: a later run removes what is left on the token
            process.kill()
            raise
        finally:
            status = _ended(process, seconds)
    if finished and status == 0:
        return None
    return unfinished or ((CLOSING,) if finished else ()), _how(status)


def _send(process: "subprocess.Popen[bytes]", job: Job) -> None:
    if process.stdin is not None:
        try:
            process.stdin.write(msgspec.json.encode(job))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended: its status says why


def _messages(descriptor: int, seconds: float) -> Iterator[Message]:
    """Yield the messages that arrive until the other end is closed. TimeoutError if none comes for so long."""
    decoder = msgspec.json.Decoder(Message)
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(seconds):
                raise TimeoutError
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(decoder.decode, lines)


def _ended(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Wait for the end of a process that has closed its pipe; kill it if it does not end."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _how(status: int) -> str:
    if status < 0:
        return f"crashed with {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _crashed(name: str, reason: str) -> Check:
    return Check(
        name=name,
        outcome=Outcome.LIMITED if name == CLOSING else Outcome.FAILED,
        detail=f"the process of the module {reason}",
        affects=_AFFECTS.get(name, "processes that end" if name == CLOSING else _UNLESS_MADE),
        advice=_CRASHES_HERE,
    )


def _untried(name: str, made: Mapping[str, Check]) -> Check:
    """Describe a check that was not made, since one that opens the token did not succeed."""
    cause = next((each for each in _REQUIRED if each in made and not made[each].passed), LOGIN)
    return Check(
        name=name,
        outcome=Outcome.UNTRIED,
        detail=f"it needs {cause!r}, which did not succeed",
        affects=_AFFECTS.get(name, _UNLESS_MADE),
        advice=f"see {cause!r}",
    )
