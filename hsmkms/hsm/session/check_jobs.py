"""Make a job of ``token-check`` for a token that device settings describe."""

import secrets

import msgspec

from hsmkms.hsm.checks.messages import Job
from hsmkms.hsm.session.token_login import DeviceSettings
from hsmkms.hsm.token_check import pin_of
from hsmkms.secret import Secret


def job_for(settings: DeviceSettings, pin: Secret | None, *, installed: bool) -> Job:
    """Return the job. ``installed``: there is an installation, whose marks of refused PINs count and are written."""
    return Job(
        module=str(settings.module),
        choice=msgspec.to_builtins(settings.choice),
        state_dir=str(settings.state_dir),
        installed=installed,
        environment=settings.environment,
        init_reserved=settings.init_reserved,
        pin=pin_of(pin) if pin is not None else None,
        run=secrets.token_hex(4),
    )
