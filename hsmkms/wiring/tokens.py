"""Open the tokens that the settings name, and match them to the tokens of the database."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.config import settings as config
from hsmkms.config import softhsm
from hsmkms.config.pin_credentials import credential_names
from hsmkms.config.settings import Secret, Settings, TokenSettings
from hsmkms.errors import BindingError, CloneError, ConfigurationError, HsmKmsError
from hsmkms.hsm.device import DeviceSettings, TokenDevice
from hsmkms.hsm.ports import Device
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.last_member import LastMember
from hsmkms.hsm.session.login import LoginGate, check_counters
from hsmkms.hsm.session.pin_marks import UnknownPinError
from hsmkms.hsm.session.token_choice import TokenChoice, candidates
from hsmkms.service.runtime import binding
from hsmkms.service.runtime.tokens import Tokens
from hsmkms.store.engine import Store
from hsmkms.store.installation import InstallationRow, TokenRow
from hsmkms.wiring.shared_marks import shared_marks
from hsmkms.wiring.stores import open_store, require_registered

Proof = TypeVar("Proof")


def at_once() -> None:
    """Do nothing: the default hook before a login, which does not wait."""


def open_device(
    settings: Settings,
    token: TokenSettings | None = None,
    *,
    accept_final_try: bool = False,
    pin: Secret | None = None,
    before_login: Callable[[], None] = at_once,
    insisted: bool = False,
    first_member: str | None = None,
) -> Device:
    """Open a token of the settings, the first if none is named, without the database.

    ``before_login`` is called when the module is loaded and the token found. ``insisted``: a person confirmed that the
    PIN is to be sent, though it may be one that was refused. ``first_member``: the serial of the member of an HA group
    to try first, instead of the one that answered last.
    """
    token = token or settings.token
    read = _reader(settings, token)

    def read_in_time() -> Secret:
        before_login()
        secret = pin or read()
        return Secret(secret.reveal(), secret.origin, insisted=True) if insisted else secret

    wanted = replace(device_settings(settings, token), first_member=first_member)
    return TokenDevice.open(wanted, read_in_time, accept_final_try=accept_final_try)


def open_named(settings: Settings, token: TokenSettings) -> Device:
    """Open a token for an operator's command, which does not open the store first: this must be a node."""
    require_registered(settings)
    return open_device(settings, token)


def open_member(settings: Settings, token: TokenSettings, serial: str) -> Device:
    """Open one member of an HA group, whichever of them is in use."""
    return open_device(settings, replace(token, serial=serial))


def device_settings(settings: Settings, token: TokenSettings | None = None) -> DeviceSettings:
    """Return the settings that the device layer needs for a token, the first if none is named."""
    token = token or settings.token
    if token.module is None:
        raise ConfigurationError("token.module is missing")
    return DeviceSettings(
        module=token.module,
        choice=choice_of(token),
        state_dir=settings.data_dir,
        environment=token.environment,
        init_reserved=token.init_reserved,
        max_sessions=token.max_sessions,
        session_wait_seconds=token.session_wait_seconds,
        replication_seconds=token.replication_seconds,
        host_unwrap=settings.imports.host_unwrap,
        accept_crashes=settings.imports.accept_crashes,
        shared_marks=shared_marks(settings),
        write_lock_dir=_shared_folder(settings, token),
    )


def _shared_folder(settings: Settings, token: TokenSettings) -> Path | None:
    """Return SoftHSM's token folder if several nodes may use it: its writers must know of each other."""
    folder = softhsm.token_folder(token.environment) if settings.store.url is not None else None
    return folder if folder is not None and os.access(folder, os.W_OK | os.X_OK) else None


def _reader(settings: Settings, token: TokenSettings) -> Callable[[], Secret]:
    """Return the PIN reader: it reads the source again at each login, since it may change, but prompts only once."""

    def read() -> Secret:
        names = credential_names(settings, token)
        return config.read_secret(token.pin, credentials=names, interactive=config.terminal_prompt())

    return cache(read) if token.pin.prompt else read


def choice_of(token: TokenSettings) -> TokenChoice:
    """Return how the settings choose their token."""
    if not token.uri:
        return TokenChoice(label=token.label, serial=token.serial)
    uri = config.parse_uri(token.uri)
    return TokenChoice(
        label=uri.label, serial=uri.serial, manufacturer=uri.manufacturer, model=uri.model, slot_id=uri.slot_id
    )


def named_token(settings: Settings, name: str | None) -> TokenSettings:
    """Find the token of the settings by label or serial; without a name the only one. Raises ConfigurationError."""
    known = [(each, choice_of(each)) for each in settings.tokens]
    fitting = [each for each, choice in known if name is None or name in (choice.label, *choice.serials)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(_shown(choice) for _, choice in known)
    advice = "" if name is None or fitting else f"; {name!r} is none of them: `hsmkms guide move-hsm` adds a token"
    raise ConfigurationError(f"name one [[token]] of the configuration by its label or serial: {names}{advice}")


class UnusedToken(Struct, frozen=True, kw_only=True):
    """A token of the settings that is none of the installation's.

    ``away``: why it cannot be used now, or None; ``refused``: why it cannot become the home, or None.
    """

    label: str | None
    serial: str | None
    away: str | None = None
    refused: str | None = None


def unused_tokens(
    settings: Settings, known: Collection[tuple[str, str]], check_target: Callable[[Device], None]
) -> list[UnusedToken]:
    """Return the tokens of the settings that are not among the ``known`` ones (label, serial); each is opened."""
    return [
        found
        for token in settings.tokens
        if not any(_names(choice_of(token), label, serial) for label, serial in known)
        if ((found := _tried(settings, token, check_target)).label, found.serial) not in known
    ]


def _names(choice: TokenChoice, label: str, serial: str) -> bool:
    return serial in choice.serials if choice.serials else choice.label == label


def _tried(settings: Settings, token: TokenSettings, check_target: Callable[[Device], None]) -> UnusedToken:
    choice = choice_of(token)
    try:
        device = open_device(settings, token)
    except HsmKmsError as exc:
        return UnusedToken(label=choice.label, serial=next(iter(choice.serials), None), away=str(exc))
    with closing(device):
        profile = device.profile
        try:
            check_target(device)
        except HsmKmsError as exc:
            return UnusedToken(label=profile.label, serial=profile.serial, refused=str(exc))
    return UnusedToken(label=profile.label, serial=profile.serial)


def _shown(choice: TokenChoice) -> str:
    """Format the names by which a token of the settings may be given."""
    return " or ".join(repr(each) for each in (choice.label, *choice.serials) if each is not None)


def open_home(
    settings: Settings,
    store: Store,
    pin: Secret | None,
    before_login: Callable[[], None] = at_once,
    accepting: TokenSettings | None = None,
) -> tuple[InstallationRow, TokenRow, Device, bytes]:
    """Open the token that is the installation's home; return it with its rows and the CKA_ID that identified it.

    ``accepting``: a token of the settings that is accepted although it is a clone, and tried before the others.
    """
    _, home = binding.expected(store)

    def open_one(token: TokenSettings, first_member: str | None) -> Device:
        return open_device(settings, token, pin=pin, before_login=before_login, first_member=first_member)

    def prove(device: Device, accept: bool) -> tuple[InstallationRow, TokenRow, bytes]:  # noqa: FBT001 - one caller
        row, token, witness = binding.prove(store, device, accepting=accept)
        _check_account(settings, row)
        return row, token, witness

    device, (row, token, witness) = _first_proven(settings, home, open_one, prove, accepting)
    return row, token, device, witness


def seek(
    reread: Callable[[], Settings], store: Store, wanted: TokenRow, accepting: TokenSettings | None = None
) -> Device:
    """Open the token that is ``wanted``. Raises the error of the tokens that might be it."""
    settings, row = reread(), binding.expected(store)[0]

    def prove(device: Device, accept: bool) -> None:  # noqa: FBT001 - one caller
        if binding.recognise(store, device, row, wanted, accepting=accept) is None:
            if binding.lacks_key(store, device, wanted):
                raise binding.wrong_token(device, wanted)
            raise BindingError(
                f"no [[token]] of the configuration is the token {wanted.label!r} (serial {wanted.serial} when it was "
                "added), on which the installation has keys: add it to the configuration"
            )

    def open_one(token: TokenSettings, first_member: str | None) -> Device:
        return open_device(settings, token, first_member=first_member)

    return _first_proven(settings, wanted, open_one, prove, accepting)[0]


def _first_proven(
    settings: Settings,
    wanted: TokenRow,
    open_one: Callable[[TokenSettings, str | None], Device],
    prove: Callable[[Device, bool], Proof],
    accepting: TokenSettings | None,
) -> tuple[Device, Proof]:
    """Return the first token proven to be ``wanted``, with the proof. Tokens of matching names are tried first.

    Of an HA group each member is tried, the one that answered last before the others.
    """
    not_opened: list[HsmKmsError] = []
    not_proven: list[HsmKmsError] = []
    for each in sorted(settings.tokens, key=lambda each: (each != accepting, not _resembles(each, wanted))):
        for device in _opened_members(each, open_one, not_opened):
            try:
                return device, prove(device, each == accepting)
            except HsmKmsError as exc:
                device.close()
                not_proven.append(exc)
            except BaseException:
                device.close()
                raise
    raise _fault_of(not_opened, not_proven)


def _opened_members(
    token: TokenSettings, open_one: Callable[[TokenSettings, str | None], Device], faults: list[HsmKmsError]
) -> Iterator[Device]:
    """Open a token, or each member of its HA group in turn; the caller closes them. Errors are added to ``faults``."""
    choice, tried = choice_of(token), set[str]()
    for first_member in (None, *choice.serials) if choice.is_group else (None,):
        if first_member in tried:
            continue
        try:
            device = open_one(token, first_member)
        except HsmKmsError as exc:
            faults.append(exc)
            return  # of a group, no member could be opened
        if device.profile.serial in tried:
            device.close()
        else:
            tried.add(device.profile.serial)
            yield device


def _fault_of(not_opened: Sequence[HsmKmsError], not_proven: Sequence[HsmKmsError]) -> HsmKmsError:
    """Choose the error when no token is the wanted one: a token that could not be opened might be the wanted one."""
    clone = next((each for each in not_proven if isinstance(each, CloneError)), None)
    fault = next((each for each in (*not_opened, *not_proven) if not isinstance(each, BindingError)), None)
    if clone is not None and fault is not None and fault in not_opened:
        return type(fault)(f"{fault}; and {clone}")
    return clone or fault or not_proven[0]


def names_home(settings: Settings) -> bool:
    """Return True if a token of the settings has the home's label or serial; if none is found, the home is away."""
    store = open_store(settings)
    try:
        _, home = binding.expected(store)
    finally:
        store.close()
    named = (each for each in settings.tokens if choice_of(each).label or choice_of(each).serial)
    return any(_resembles(each, home) for each in named)


def open_spare(settings: Settings, tokens: Tokens) -> list[Device]:
    """Open the tokens of the settings that are not attached yet, skipping those that cannot be opened."""
    spare = []
    for each in settings.tokens if settings.further_tokens else ():
        try:
            device = open_device(settings, each)
        except HsmKmsError:
            continue
        if device in tokens.opened():
            device.close()  # shared with the device that is already attached
        else:
            spare.append(device)
    return spare


def open_what_can_be(settings: Settings, opened: ExitStack) -> tuple[Settings, list[Device], list[HsmKmsError]]:
    """Open all tokens that can be opened; return the settings with only these, the devices, and the others' errors.

    Raises the first error if none can be opened.
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
    """Return True if label and serial in the settings match the row; that is a hint, not a proof."""
    choice = choice_of(token)
    return choice.label in (None, row.label) and (not choice.serials or row.serial in choice.serials)


def _check_account(settings: Settings, row: InstallationRow) -> None:
    if row.account != settings.account_id:
        raise ConfigurationError(
            f"account_id is {settings.account_id}, but this installation was created for {row.account}: correct it"
        )


def pass_on_members(settings: Settings, used_since: float) -> list[str]:
    """Let new processes begin with the next member of each HA group; return the serials. Makes no call to a token.

    ``used_since``: see ``LastMember.pass_on``.
    """
    groups = [choice for choice in map(choice_of, settings.tokens) if choice.is_group]
    passed_on = (LastMember(settings.data_dir, each.serials).pass_on(used_since) for each in groups)
    return [each for each in passed_on if each is not None]


def wrong_pins_given(settings: Settings, token: TokenSettings) -> bool:
    """Return True if a wrong PIN was given since the last login. PinError if no PIN would be sent to the token."""
    device = device_settings(settings, token)
    module = modules.acquire(device.module, environment=device.environment, reserved=device.init_reserved)
    try:
        gate = LoginGate(settings.data_dir, device.choice.serials)
        warned = [check_counters(each, gate) for each in candidates(module, device.choice)]
        return any(warned)
    finally:
        module.release()


def never(_: str) -> bool:
    """Answer no: the default where no person can be asked."""
    return False


def retry_pin(
    settings: Settings, *, insisted: TokenSettings | None = None, confirm: Callable[[str], bool] = never
) -> bool:
    """Retry the login of every token once, where a person confirms that a PIN differs from the refused one.

    Returns True if there was a mark of a refused PIN. ``insisted``: the token whose PIN is tried without asking.
    ``confirm`` asks about the others. Raises PinError if a PIN is refused or is not confirmed.
    """
    require_registered(settings)
    gate = LoginGate(settings.data_dir, shared=shared_marks(settings))
    with gate.exclusive():
        gate.exchange_marks()
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
    """Retry the login of a token; of an HA group, also of each member that has refused the PIN while not in use."""
    marked = [each for each in choice_of(token).serials if _refused_alone(settings, each)]
    for each in (token, *(replace(token, serial=serial) for serial in marked)):
        try:
            open_device(settings, each, accept_final_try=True, insisted=insisted).close()
        except UnknownPinError as exc:
            if not confirm(exc.question):
                raise
            open_device(settings, each, accept_final_try=True, insisted=True).close()


def _refused_alone(settings: Settings, serial: str) -> bool:
    mark = LoginGate(settings.data_dir).mark(serial)
    return mark is not None and mark.alone
