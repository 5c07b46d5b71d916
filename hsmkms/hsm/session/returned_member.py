"""Find out in a process of its own whether a module that is initialised anew lists a member of an HA group."""

from typing import Final

from msgspec.structs import replace

from hsmkms.errors import ModuleError
from hsmkms.hsm.session.token_login import DeviceSettings

SECONDS: Final = 60.0
"""How long that process may take."""


def is_listed_anew(settings: DeviceSettings, serial: str) -> bool:
    """Return whether a new process finds the token with that serial. No PIN is sent."""
    from hsmkms.hsm.checks.messages import TOKEN  # noqa: PLC0415 - no other process needs the checks
    from hsmkms.hsm.session.check_jobs import job_for  # noqa: PLC0415 - see above
    from hsmkms.hsm.token_check import ALL, run_checks  # noqa: PLC0415 - see above

    job = job_for(replace(settings, choice=replace(settings.choice, serial=serial)), None, installed=True)
    others = tuple(each for each in ALL if each != TOKEN)
    try:
        (check,) = run_checks(replace(job, done=others), SECONDS).checks
    except ModuleError:
        return False
    return check.passed
