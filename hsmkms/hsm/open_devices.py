"""Which devices this process has open: two of them on one token would share a login, and neither would know."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from hsmkms.errors import ModuleError, TokenNotFoundError
from hsmkms.hsm import module as modules
from hsmkms.hsm.choice import choose, serial_of
from hsmkms.hsm.connection import Connection, DeviceSettings
from hsmkms.hsm.login import START_ATTEMPTS, START_PAUSE_SECONDS, PinReader
from hsmkms.hsm.module import Module

Open = TypeVar("Open", bound=Connection)


class OpenDevices(Generic[Open]):
    """The devices of this process, by module and token: two logins on one token cannot be told apart."""

    def __init__(self, make: Callable[..., Open]) -> None:
        self._make = make
        self.after_fork()

    def after_fork(self) -> None:
        """A child has none open."""
        self._lock = threading.Lock()
        self._users: dict[tuple[Path, str, str], tuple[Open, int]] = {}

    def acquire(self, settings: DeviceSettings, read_pin: PinReader, *, accept_final_try: bool) -> Open:
        """The device of a token, opened if it is not yet; its users are counted."""
        # SoftHSM writes to a token at each login, and a module that loads the token at that instant never shows it.
        for _ in range(START_ATTEMPTS - 1):
            with suppress(TokenNotFoundError):
                return self._acquire_now(settings, read_pin, accept_final_try=accept_final_try)
            time.sleep(START_PAUSE_SECONDS)
        return self._acquire_now(settings, read_pin, accept_final_try=accept_final_try)

    def _acquire_now(self, settings: DeviceSettings, read_pin: PinReader, *, accept_final_try: bool) -> Open:
        module = modules.acquire(settings.module, environment=settings.environment, reserved=settings.init_reserved)
        try:
            return self._share_or_open(settings, module, read_pin, accept_final_try=accept_final_try)
        except BaseException:
            module.release()
            raise

    def _share_or_open(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool
    ) -> Open:
        with module.opening():
            return self._share_or_open_now(settings, module, read_pin, accept_final_try=accept_final_try)

    def _share_or_open_now(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool
    ) -> Open:
        token = choose(module, settings.choice)
        key = (module.path, token.label, serial_of(token))
        with self._lock:
            device, users = self._users.get(key) or (
                self._make(settings, module, read_pin, accept_final_try=accept_final_try),
                0,
            )
            if device._settings.host_unwrap != settings.host_unwrap:  # noqa: SLF001 - the registry is the other half of the class
                raise ModuleError(
                    "this token is open in this process with another setting of import.host_unwrap: use one for both"
                )
            self._users[key] = (device, users + 1)
            return device

    def release(self, device: Open) -> None:
        """One user less; with the last one the sessions are closed and the module let go."""
        with self._lock:
            for key, (held, users) in self._users.items():
                if held is device:
                    if users > 1:
                        self._users[key] = (device, users - 1)
                    else:
                        del self._users[key]
                        device._close_sessions()  # noqa: SLF001
                    device._module.release()  # noqa: SLF001
                    return
