"""Opening the tokens that the settings name, and telling which of them is which one of the database's."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from typing import TypeVar

from msgspec.structs import replace

from hsmkms.config import settings as config
from hsmkms.config.pin_credentials import credential_names
from hsmkms.config.settings import Secret, Settings, TokenSettings
from hsmkms.errors import BindingError, CloneError, ConfigurationError, HsmKmsError
from hsmkms.hsm.device import DeviceSettings, TokenDevice
from hsmkms.hsm.ports import Device
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.login import LoginGate, check_counters
from hsmkms.hsm.session.pin_marks import UnknownPinError
from hsmkms.hsm.session.token_choice import TokenChoice, choose
from hsmkms.service.runtime import binding
from hsmkms.service.runtime.tokens import Tokens
from hsmkms.store.engine import Store
from hsmkms.store.installation import InstallationRow, TokenRow

Proof = TypeVar("Proof")


def at_once() -> None:
    """Log in without waiting for anybody."""


def open_device(
    settings: Settings,
    token: TokenSettings | None = None,
    *,
    accept_final_try: bool = False,
    pin: Secret | None = None,
    before_login: Callable[[], None] = at_once,
    insisted: bool = False,
) -> Device:
    """Open a token of the settings, the first if none is named, without the database.

    ``before_login`` is called when the module is loaded and the token found. ``insisted``: a person wants the PIN to be
    sent, though it may be one that was refused.
    """
    token = token or settings.token
    read = _reader(settings, token)

    def read_in_time() -> Secret:
        before_login()
        told = pin or read()
        return Secret(told.reveal(), told.origin, insisted=True) if insisted else told

    return TokenDevice.open(device_settings(settings, token), read_in_time, accept_final_try=accept_final_try)


def device_settings(settings: Settings, token: TokenSettings | None = None) -> DeviceSettings:
    """What the token's layer has to know of the settings, of the first token if none is named."""
    token = token or settings.token
    if token.module is None:
        raise ConfigurationError("token.module is missing")
    return DeviceSettings(
        module=token.module,
        choice=_choice(token),
        state_dir=settings.data_dir,
        environment=token.environment,
        init_reserved=token.init_reserved,
        max_sessions=token.max_sessions,
        session_wait_seconds=token.session_wait_seconds,
        host_unwrap=settings.imports.host_unwrap,
    )


def _reader(settings: Settings, token: TokenSettings) -> Callable[[], Secret]:
    """Reads the PIN at each login, since it may be changed; from a person at the terminal only once."""

    def read() -> Secret:
        names = credential_names(settings, token)
        return config.read_secret(token.pin, credentials=names, interactive=config.terminal_prompt())

    return cache(read) if token.pin.prompt else read


def _choice(token: TokenSettings) -> TokenChoice:
    if not token.uri:
        return TokenChoice(label=token.label, serial=token.serial)
    uri = config.parse_uri(token.uri)
    return TokenChoice(
        label=uri.label, serial=uri.serial, manufacturer=uri.manufacturer, model=uri.model, slot_id=uri.slot_id
    )


def named_token(settings: Settings, name: str | None) -> TokenSettings:
    """The token of the settings with that label or serial; without a name the only one. Raises ConfigurationError."""
    known = [(each, _choice(each)) for each in settings.tokens]
    fitting = [each for each, choice in known if name is None or name in (choice.label, *choice.serials)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(_shown(choice) for _, choice in known)
    raise ConfigurationError(f"name one [[token]] of the configuration by its label or serial: {names}")


def _shown(choice: TokenChoice) -> str:
    """How a token of the settings may be named."""
    return " or ".join(repr(each) for each in (choice.label, *choice.serials) if each is not None)


def open_home(
    settings: Settings,
    store: Store,
    pin: Secret | None,
    before_login: Callable[[], None] = at_once,
    accepting: TokenSettings | None = None,
) -> tuple[InstallationRow, TokenRow, Device, bytes]:
    """The one of the tokens that is the installation's home, opened, and the key by which it was recognised.

    ``accepting``: the one of the settings that is taken although it is a clone, and before the others.
    """
    _, home = binding.told(store)

    def open_one(token: TokenSettings) -> Device:
        return open_device(settings, token, pin=pin, before_login=before_login)

    def prove(device: Device, accept: bool) -> tuple[InstallationRow, TokenRow, bytes]:  # noqa: FBT001 - one caller
        row, token, witness = binding.prove(store, device, accepting=accept)
        _check_account(settings, row)
        return row, token, witness

    device, (row, token, witness) = _first_proven(settings, home, open_one, prove, accepting)
    return row, token, device, witness


def seek(
    reread: Callable[[], Settings], store: Store, wanted: TokenRow, accepting: TokenSettings | None = None
) -> Device:
    """Open the one of the tokens that is ``wanted``. Raises what is wrong with those that it may be."""
    settings, row = reread(), binding.told(store)[0]

    def prove(device: Device, accept: bool) -> None:  # noqa: FBT001 - one caller
        if binding.recognise(store, device, row, wanted, accepting=accept) is None:
            if binding.lacks_key(store, device, wanted):
                raise binding.wrong_token(device, wanted)
            raise BindingError(
                f"no [[token]] of the configuration is the token {wanted.label!r} (serial {wanted.serial} when it was "
                "added), on which the installation has keys: add it to the configuration"
            )

    return _first_proven(settings, wanted, lambda token: open_device(settings, token), prove, accepting)[0]


def _first_proven(
    settings: Settings,
    wanted: TokenRow,
    open_one: Callable[[TokenSettings], Device],
    prove: Callable[[Device, bool], Proof],
    accepting: TokenSettings | None,
) -> tuple[Device, Proof]:
    """The first of the tokens that is proven to be ``wanted``, with the proof. Those that resemble it come first."""
    not_opened: list[HsmKmsError] = []
    not_proven: list[HsmKmsError] = []
    for each in sorted(settings.tokens, key=lambda each: (each != accepting, not _resembles(each, wanted))):
        try:
            device = open_one(each)
        except HsmKmsError as exc:
            not_opened.append(exc)
            continue
        try:
            return device, prove(device, each == accepting)
        except HsmKmsError as exc:
            device.close()
            not_proven.append(exc)
        except BaseException:
            device.close()
            raise
    raise _fault_of(not_opened, not_proven)


def _fault_of(not_opened: Sequence[HsmKmsError], not_proven: Sequence[HsmKmsError]) -> HsmKmsError:
    """What to raise where no token is the wanted one: what could not be opened may be it; what was opened is not."""
    clone = next((each for each in not_proven if isinstance(each, CloneError)), None)
    fault = next((each for each in (*not_opened, *not_proven) if not isinstance(each, BindingError)), None)
    if clone is not None and fault is not None and fault in not_opened:
        return type(fault)(f"{fault}; and {clone}")
    return clone or fault or not_proven[0]


def names_home(settings: Settings) -> bool:
    """True if a token of the settings is named like the home: where none fits that name, the home is away."""
    store = Store.open(settings.data_dir)
    try:
        _, home = binding.told(store)
    finally:
        store.close()
    named = (each for each in settings.tokens if _choice(each).label or _choice(each).serial)
    return any(_resembles(each, home) for each in named)


def open_spare(settings: Settings, tokens: Tokens) -> list[Device]:
    """The tokens of the settings that the installation has no keys on yet; what cannot be opened is left out."""
    spare = []
    for each in settings.tokens if settings.further_tokens else ():
        try:
            device = open_device(settings, each)
        except HsmKmsError:
            continue
        if device in tokens.opened():
            device.close()  # it is shared with the one that is there
        else:
            spare.append(device)
    return spare


def open_what_can_be(settings: Settings, opened: ExitStack) -> tuple[Settings, list[Device], list[HsmKmsError]]:
    """All tokens of the settings that can be opened, the settings with these alone, and what is wrong with the others.

    Raises what is wrong with the first if none can.
    """
    tokens: list[TokenSettings] = []
    devices: list[Device] = []
    faults: list[HsmKmsError] = []
    for each in settings.tokens:
        try:
            devices.append(open_device(settings, each))
        except HsmKmsError as exc:
            faults.append(exc)
        else:
            opened.callback(devices[-1].close)
            tokens.append(each)
    if not devices:
        raise faults[0]
    return replace(settings, token=tokens[0], further_tokens=tuple(tokens[1:])), devices, faults


def _resembles(token: TokenSettings, row: TokenRow) -> bool:
    """True if the settings may mean that token, by its names, which prove nothing."""
    choice = _choice(token)
    return choice.label in (None, row.label) and (not choice.serials or row.serial in choice.serials)


def _check_account(settings: Settings, row: InstallationRow) -> None:
    if row.account != settings.account_id:
        raise ConfigurationError(
            f"account_id is {settings.account_id}, but this installation was made for {row.account}: correct it"
        )


def wrong_pins_given(settings: Settings, token: TokenSettings) -> bool:
    """True if somebody gave a wrong PIN since the last login. Raises PinError if no PIN would be sent to the token."""
    told = device_settings(settings, token)
    module = modules.acquire(told.module, environment=told.environment, reserved=told.init_reserved)
    try:
        return check_counters(choose(module, told.choice), LoginGate(settings.data_dir))
    finally:
        module.release()


def never(_: str) -> bool:
    """Answer a question with no, where nobody can be asked."""
    return False


def retry_pin(
    settings: Settings, *, insisted: TokenSettings | None = None, confirm: Callable[[str], bool] = never
) -> bool:
    """Try the PINs that were refused, each once, if a person says that it is another one; true if there was one.

    ``insisted``: the token whose PIN is tried in any case. ``confirm`` asks about the others. Raises PinError if one is
    refused, or still is.
    """
    gate = LoginGate(settings.data_dir)
    had_mark = gate.mark() is not None
    faults: list[HsmKmsError] = []
    for each in settings.tokens:
        try:
            _retry_one(settings, each, confirm, insisted=each is insisted)
        except HsmKmsError as exc:
            faults.append(exc)
    if faults:
        raise faults[0]
    gate.remove_unreadable_marks()
    return had_mark


def _retry_one(settings: Settings, token: TokenSettings, confirm: Callable[[str], bool], *, insisted: bool) -> None:
    try:
        open_device(settings, token, accept_final_try=True, insisted=insisted).close()
    except UnknownPinError as exc:
        if not confirm(exc.question):
            raise
        open_device(settings, token, accept_final_try=True, insisted=True).close()
