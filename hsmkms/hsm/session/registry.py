"""Registry of this process's open devices: two devices on one token would share a login without knowing it."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from pkcs11.types import Token

from hsmkms.errors import ModuleError, TokenNotFoundError
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.connection import Connection, DeviceSettings
from hsmkms.hsm.session.login import START_ATTEMPTS, START_PAUSE_SECONDS, PinReader
from hsmkms.hsm.session.module import Module
from hsmkms.hsm.session.token_choice import TokenChoice, choose


class HasConnection(Protocol):
    """A device with a connection."""

    connection: Connection


Open = TypeVar("Open", bound=HasConnection)


class OpenDevices(Generic[Open]):
    """Open devices of this process, one per token: two logins on one token are indistinguishable."""

    def __init__(self, make: Callable[..., Open]) -> None:
        self._make = make
        self.after_fork()

    def after_fork(self) -> None:
        """Reset the registry in a forked child, which has no device open."""
        self._lock = threading.Lock()
        self._users: dict[int, tuple[Open, int]] = {}
        """Device and number of its users, by the device's ``id()``."""

    def acquire(self, settings: DeviceSettings, read_pin: PinReader, *, accept_final_try: bool) -> Open:
        """Return the device of a token, opening it if needed, and count its users."""
        # SoftHSM writes to a token at each login, and a module that loads the token in that instant never lists it.
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
        with self._lock:
            device, users = self._open_device(module, token, settings.choice) or (
                self._make(settings, module, read_pin, accept_final_try=accept_final_try),
                0,
            )
            if device.connection.settings.host_unwrap != settings.host_unwrap:
                raise ModuleError(
                    "this token is open in this process with another setting of import.host_unwrap: use one for both"
                )
            self._users[id(device)] = (device, users + 1)
            return device

    def _open_device(self, module: Module, token: Token, choice: TokenChoice) -> tuple[Open, int] | None:
        """Return the device that has the token open or uses the same choice, with its number of users; else None.

        The choice counts because the present member of an HA group may not be the one that was opened, and because a
        token in the place of one that is away must be judged by that device before it is sent the PIN.
        """
        for device, users in self._users.values():
            if device.connection.module is module and device.connection.is_for(token, choice):
                return device, users
        return None

    def release(self, device: Open) -> None:
        """Drop one user; with the last one, close the sessions and release the module."""
        with self._lock:
            _, users = self._users.pop(id(device), (device, 0))
            if users > 1:
                self._users[id(device)] = (device, users - 1)
            elif users:
                device.connection.close_sessions()
            if users:
                device.connection.module.release()
