"""Alias names, and the keys to which an alias may move."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from hsmkms.errors import (
    InvalidAliasNameException,
    KMSInvalidStateException,
    NotAuthorizedException,
    ValidationException,
)
from hsmkms.model.enums import KeySpec, KeyState, KeyUsage
from hsmkms.model.records import KeyRecord
from hsmkms.rules.aliases import MAX_ALIASES_PER_KEY, check_new_name, check_retarget, check_target

ALIAS = "arn:aws:kms:eu-central-1:111122223333:alias/app"


def is_accepted(name: str) -> bool:
    """Return whether a user may create an alias of this name."""
    try:
        check_new_name(name)
    except (InvalidAliasNameException, NotAuthorizedException, ValidationException):
        return False
    return True


@pytest.mark.parametrize("name", ["alias/a", "alias/Team_1/app-2", "alias/aws", "alias/" + "x" * 250])
def test_good_names(name: str) -> None:
    """A name of letters, digits, slash, underscore and hyphen is accepted up to 256 characters, and refused beyond."""
    assert is_accepted(name)
    assert not is_accepted(name.ljust(257, "x"))
    assert not is_accepted(f"{name[:255]}.")


@pytest.mark.parametrize("name", ["app", "", "Alias/app", "/alias/app", "arn:aws:kms:eu:111122223333:alias/app"])
def test_prefix(name: str) -> None:
    """A name without the prefix is refused in AWS's words."""
    with pytest.raises(ValidationException) as caught:
        check_new_name(name)
    assert str(caught.value) == (
        'Alias must start with the prefix "alias/". '
        "Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
    )


@pytest.mark.parametrize("name", ["alias/aws/", "alias/aws/s3"])
def test_reserved(name: str) -> None:
    """The names of service-managed keys are not for users: NotAuthorizedException, without a message on the wire."""
    with pytest.raises(NotAuthorizedException) as caught:
        check_new_name(name)
    message = f'Alias names that begin with "alias/aws/" are reserved for service-managed keys: {name}'
    assert str(caught.value) == message
    assert caught.value.silent


def test_colon() -> None:
    """A colon, which the model's pattern allows, is refused in AWS's words."""
    with pytest.raises(ValidationException) as caught:
        check_new_name("alias/my:alias")
    assert str(caught.value) == "alias/my:alias contains invalid characters for an alias"


@pytest.mark.parametrize("target", ["alias/app", ALIAS])
def test_target_is_no_alias(target: str) -> None:
    """An alias refers to a key, never to another alias, by name or ARN."""
    with pytest.raises(ValidationException) as caught:
        check_target(target)
    assert str(caught.value) == "Aliases must refer to keys. Not aliases"
    check_target(ALIAS.replace("alias/app", "key/1234abcd-12ab-34cd-56ef-1234567890ab"))


@pytest.mark.parametrize("name", ["alias/", "alias/a b", "alias/\u00e9", "alias/a\n", "alias/" + "x" * 251])
def test_bad_names(name: str) -> None:
    """The bare prefix, other characters and longer names are refused."""
    with pytest.raises(InvalidAliasNameException) as caught:
        check_new_name(name)
    tail = 'is not an alias name: after "alias/" come 1 to 250 letters, digits, "/", "_" or "-".'
    assert str(caught.value) == f"{name} {tail}"


def test_limit() -> None:
    """A key has at most 50 aliases."""
    assert MAX_ALIASES_PER_KEY == 50


@pytest.mark.parametrize(
    ("old", "new", "usage"),
    [
        (KeySpec.SYMMETRIC_DEFAULT, KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT),
        (KeySpec.RSA_2048, KeySpec.RSA_4096, KeyUsage.ENCRYPT_DECRYPT),
        (KeySpec.RSA_2048, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY),
        (KeySpec.HMAC_224, KeySpec.HMAC_512, KeyUsage.GENERATE_VERIFY_MAC),
    ],
)
def test_same_type_and_usage(make_key: Callable[..., KeyRecord], old: KeySpec, new: KeySpec, usage: KeyUsage) -> None:
    """An alias moves between specs of one type and one usage, and to no key of another usage."""
    check_retarget(ALIAS, make_key(spec=old, usage=usage), make_key(spec=new, usage=usage))
    with pytest.raises(ValidationException, match=f"with key usage {KeyUsage.KEY_AGREEMENT}"):
        check_retarget(ALIAS, make_key(spec=old, usage=usage), make_key(spec=new, usage=KeyUsage.KEY_AGREEMENT))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT),
            (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY),
            "key usage ENCRYPT_DECRYPT to a CMK with key usage SIGN_VERIFY",
        ),
        (
            (KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT),
            (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT),
            "key type SYMMETRIC to a CMK with key type ASYMMETRIC",
        ),
    ],
)
def test_other_type_or_usage(
    make_key: Callable[..., KeyRecord],
    old: tuple[KeySpec, KeyUsage],
    new: tuple[KeySpec, KeyUsage],
    words: str,
) -> None:
    """An alias does not move to another usage or another type."""
    before, after = make_key(spec=old[0], usage=old[1]), make_key(spec=new[0], usage=new[1])
    copies = replace(before), replace(after)
    with pytest.raises(ValidationException) as caught:
        check_retarget(ALIAS, before, after)
    assert str(caught.value) == f"Alias {ALIAS} cannot be changed from a CMK with {words}"
    assert (before, after) == copies


@pytest.mark.parametrize("state", [KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION])
def test_target_pending_deletion(make_key: Callable[..., KeyRecord], state: KeyState) -> None:
    """The new target must not be pending deletion, while the old one may."""
    dying, living = make_key(state=state), make_key()
    check_retarget(ALIAS, dying, living)
    with pytest.raises(KMSInvalidStateException) as caught:
        check_retarget(ALIAS, living, dying)
    assert str(caught.value) == f"{dying.arn} is pending deletion."
