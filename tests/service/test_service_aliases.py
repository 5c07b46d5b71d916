"""CreateAlias, UpdateAlias, DeleteAlias, ListAliases. Source: AWS KMS Developer Guide, "Aliases in AWS KMS"."""

import uuid
from typing import Any

import pytest
from service_sites import ACCOUNT, OTHER_REGION, REGION, StoppedClock, new_alias, new_key, seal, unseal

from hsmkms.errors import (
    AccessDeniedException,
    AlreadyExistsException,
    HsmKmsError,
    InvalidAliasNameException,
    InvalidMarkerException,
    LimitExceededException,
    NotAuthorizedException,
    NotFoundException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model.aliases import (
    CreateAliasRequest,
    DeleteAliasRequest,
    ListAliasesRequest,
    UpdateAliasRequest,
)
from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.model.keys import DescribeKeyRequest, DisableKeyRequest
from hsmkms.rules import paging

UNKNOWN = "12345678-1234-4123-8123-123456789012"


def fresh_name() -> str:
    """An alias name that no other test has."""
    return f"alias/a-{uuid.uuid4()}"


def target(kms: Kms, name: str, caller: Caller | None = None) -> str:
    """The id of the key that an alias leads to."""
    return kms.describe_key(DescribeKeyRequest(key_id=name), caller).key_metadata.key_id


def names_of(kms: Kms, key_id: str) -> list[str]:
    """The aliases of a key."""
    return [alias.alias_name for alias in kms.list_aliases(ListAliasesRequest(key_id=key_id, limit=100)).aliases]


def arn(name: str) -> str:
    """The ARN of an alias in the default region."""
    return f"arn:aws:kms:{REGION}:{ACCOUNT}:{name}"


@pytest.mark.parametrize("form", ["key_id", "arn"])
def test_create_alias(kms: Kms, form: str) -> None:
    """An alias for a key id or a key ARN resolves to the key, and is listed with all members of the API."""
    made = new_key(kms)
    name = fresh_name()
    new_alias(kms, name, getattr(made, form))
    assert target(kms, name) == made.key_id
    (entry,) = kms.list_aliases(ListAliasesRequest(key_id=made.arn)).aliases
    assert (entry.alias_name, entry.alias_arn, entry.target_key_id) == (name, arn(name), made.key_id)
    assert entry.creation_date == entry.last_updated_date is not None


def test_alias_names_are_case_sensitive(kms: Kms) -> None:
    """Two names that differ in case are two aliases."""
    first, second, name = new_key(kms), new_key(kms), fresh_name()
    new_alias(kms, f"{name}-x", first.key_id)
    new_alias(kms, f"{name}-X", second.key_id)
    assert (target(kms, f"{name}-x"), target(kms, f"{name}-X")) == (first.key_id, second.key_id)


def test_create_alias_on_disabled_key(kms: Kms) -> None:
    """A disabled key can be given a name."""
    made, name = new_key(kms), fresh_name()
    kms.disable_key(DisableKeyRequest(key_id=made.key_id))
    new_alias(kms, name, made.key_id)
    assert target(kms, name) == made.key_id


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("photos", ValidationException, 'Alias must start with the prefix "alias/"'),
        ("Alias/photos", ValidationException, 'Alias must start with the prefix "alias/"'),
        ("alias/aws/photos", NotAuthorizedException, "reserved"),
        ("alias/", InvalidAliasNameException, "1 to 250"),
        ("alias/a:b", ValidationException, "alias/a:b contains invalid characters"),
        ("alias/a b", ValidationException, "'aliasName'"),
        ("alias/ü", ValidationException, "'aliasName'"),
        ("alias/" + "x" * 251, ValidationException, "'aliasName'"),
        ("", ValidationException, "'aliasName'"),
        (None, ValidationException, "'aliasName'"),
    ],
)
def test_create_alias_bad_names(kms: Kms, name: str | None, error: type[HsmKmsError], message: str) -> None:
    """A name outside the rules is refused and not made."""
    made = new_key(kms)
    with pytest.raises(error) as caught:
        kms.create_alias(CreateAliasRequest(alias_name=name, target_key_id=made.key_id))
    assert message in str(caught.value)
    assert names_of(kms, made.key_id) == []


def test_longest_name(kms: Kms) -> None:
    """A name may have 256 characters in all."""
    made = new_key(kms)
    name = fresh_name().ljust(256, "x")
    new_alias(kms, name, made.key_id)
    assert names_of(kms, made.key_id) == [name]


def test_create_alias_twice(kms: Kms) -> None:
    """A name is free only once in a region, whichever key it is for, and stays where it is."""
    first, second, name = new_key(kms), new_key(kms), fresh_name()
    new_alias(kms, name, first.key_id)
    for key in (first, second):
        with pytest.raises(AlreadyExistsException) as caught:
            new_alias(kms, name, key.key_id)
        assert str(caught.value) == f"An alias with the name {arn(name)} already exists"
    assert target(kms, name) == first.key_id


@pytest.mark.parametrize("key_id", [UNKNOWN, f"arn:aws:kms:us-west-2:{ACCOUNT}:key/{UNKNOWN}"])
def test_create_alias_without_its_key(kms: Kms, key_id: str) -> None:
    """The target must be a key of the region, named by id or ARN."""
    name = fresh_name()
    with pytest.raises(NotFoundException):
        new_alias(kms, name, key_id)
    with pytest.raises(NotFoundException, match="is not found"):
        target(kms, name)


def test_alias_quota(kms: Kms) -> None:
    """A key has at most 50 aliases: neither a new one nor one that moves to it makes more; room is used again."""
    full, other = new_key(kms), new_key(kms)
    base, stray = fresh_name(), fresh_name()
    for number in range(50):
        new_alias(kms, f"{base}-{number}", full.key_id)
    new_alias(kms, stray, other.key_id)
    with pytest.raises(LimitExceededException, match="50"):
        new_alias(kms, f"{base}-50", full.key_id)
    with pytest.raises(LimitExceededException, match="50"):
        kms.update_alias(UpdateAliasRequest(alias_name=stray, target_key_id=full.key_id))
    kms.update_alias(UpdateAliasRequest(alias_name=f"{base}-0", target_key_id=full.key_id))
    kms.delete_alias(DeleteAliasRequest(alias_name=f"{base}-0"))
    kms.update_alias(UpdateAliasRequest(alias_name=stray, target_key_id=full.key_id))
    assert len(names_of(kms, full.key_id)) == 50


def test_update_alias(kms: Kms) -> None:
    """A moved alias encrypts under the new key, while old ciphertexts still name the old one."""
    first, second, name = new_key(kms), new_key(kms), fresh_name()
    new_alias(kms, name, first.key_id)
    sealed = seal(kms, name)
    kms.update_alias(UpdateAliasRequest(alias_name=name, target_key_id=second.arn))
    assert target(kms, name) == second.key_id
    assert unseal(kms, sealed) == b"secret"
    assert unseal(kms, seal(kms, name), key_id=second.key_id) == b"secret"
    assert (names_of(kms, first.key_id), names_of(kms, second.key_id)) == ([], [name])


def test_update_alias_dates(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The date of creation stays; the date of the last update is that of the move."""
    first, second, name = new_key(kms), new_key(kms), fresh_name()
    monkeypatch.setattr(kms._core, "clock", clock)
    new_alias(kms, name, first.key_id)
    created = clock.now
    clock.advance(hours=1)
    kms.update_alias(UpdateAliasRequest(alias_name=name, target_key_id=second.key_id))
    (entry,) = kms.list_aliases(ListAliasesRequest(key_id=second.key_id)).aliases
    assert (entry.creation_date, entry.last_updated_date) == (created, clock.now)


def test_update_unknown_alias(kms: Kms) -> None:
    """An alias that is not there cannot be moved, and is not made."""
    made, name = new_key(kms), fresh_name()
    with pytest.raises(NotFoundException) as caught:
        kms.update_alias(UpdateAliasRequest(alias_name=name, target_key_id=made.key_id))
    assert str(caught.value) == f"Alias {arn(name)} is not found."
    assert names_of(kms, made.key_id) == []


def test_update_alias_to_unknown_key(kms: Kms) -> None:
    """An alias cannot be moved to a key that is not there, and stays."""
    made, name = new_key(kms), fresh_name()
    new_alias(kms, name, made.key_id)
    with pytest.raises(NotFoundException, match=UNKNOWN):
        kms.update_alias(UpdateAliasRequest(alias_name=name, target_key_id=UNKNOWN))
    assert target(kms, name) == made.key_id


def test_delete_alias(kms: Kms) -> None:
    """A deleted alias is gone and free again, and its key works on."""
    made, name = new_key(kms), fresh_name()
    new_alias(kms, name, made.key_id)
    sealed = seal(kms, name)
    kms.delete_alias(DeleteAliasRequest(alias_name=name))
    with pytest.raises(NotFoundException, match="is not found"):
        seal(kms, name)
    assert unseal(kms, sealed, key_id=made.key_id) == b"secret"
    new_alias(kms, name, made.key_id)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("alias/never-made", NotFoundException),
        ("photos", ValidationException),
        ("alias/aws/photos", AccessDeniedException),
    ],
)
def test_delete_alias_refusals(kms: Kms, name: str, error: type[HsmKmsError]) -> None:
    """Only an alias that is there, and that a user may manage, can be deleted."""
    with pytest.raises(error):
        kms.delete_alias(DeleteAliasRequest(alias_name=name))


def test_same_name_in_two_regions(kms: Kms) -> None:
    """A name leads to one key here and to another one there, and each is moved and deleted alone."""
    there, name = kms.caller(OTHER_REGION), fresh_name()
    here_key, there_key = new_key(kms), new_key(kms, there)
    new_alias(kms, name, here_key.key_id)
    with pytest.raises(NotFoundException, match=f"{OTHER_REGION}:{ACCOUNT}:{name} is not found"):
        target(kms, name, there)
    with pytest.raises(NotFoundException, match="does not exist"):
        new_alias(kms, name, here_key.key_id, there)
    new_alias(kms, name, there_key.key_id, there)
    assert (target(kms, name), target(kms, name, there)) == (here_key.key_id, there_key.key_id)
    with pytest.raises(NotFoundException, match=f"Invalid arn {OTHER_REGION}"):
        target(kms, f"arn:aws:kms:{OTHER_REGION}:{ACCOUNT}:{name}")
    kms.delete_alias(DeleteAliasRequest(alias_name=name))
    assert target(kms, name, there) == there_key.key_id


def _all_pages(kms: Kms, limit: int, key_id: str | None) -> list[Any]:
    seen: list[Any] = []
    marker = None
    while True:
        page = kms.list_aliases(ListAliasesRequest(limit=limit, marker=marker, key_id=key_id))
        assert len(page.aliases) <= limit
        assert page.truncated == (page.next_marker is not None)
        seen += page.aliases
        marker = page.next_marker
        if marker is None:
            return seen


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_list_aliases_pages(kms: Kms, limit: int) -> None:
    """Following the markers shows every alias exactly once in the order of names, of the region or of one key."""
    made, base = new_key(kms), fresh_name()
    mine = sorted(f"{base}/{suffix}" for suffix in ("b", "a", "B", "0", "_", "a-b", "a/b"))
    for name in mine:
        new_alias(kms, name, made.key_id)
    assert [page.alias_name for page in _all_pages(kms, limit, made.key_id)] == mine
    everything = [page.alias_name for page in _all_pages(kms, limit, None)]
    assert everything == sorted(set(everything))
    assert set(mine) <= set(everything)


def test_list_aliases_default_page(kms: Kms) -> None:
    """Without a Limit a page has 50 aliases, the most that one key has."""
    first, second = new_key(kms), new_key(kms)
    for number in range(30):
        new_alias(kms, f"{fresh_name()}-{number}", first.key_id)
        new_alias(kms, f"{fresh_name()}-{number}", second.key_id)
    page = kms.list_aliases(ListAliasesRequest())
    assert (len(page.aliases), page.truncated) == (50, True)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"limit": 0}, ValidationException),
        ({"limit": 101}, ValidationException),
        ({"marker": "nonsense"}, InvalidMarkerException),
        ({"marker": paging.encode_marker(Operation.LIST_KEYS, UNKNOWN)}, InvalidMarkerException),
        ({"key_id": UNKNOWN}, NotFoundException),
        ({"key_id": "alias/any"}, NotFoundException),
    ],
)
def test_list_aliases_refusals(kms: Kms, members: dict[str, Any], error: type[HsmKmsError]) -> None:
    """Pages of 1 to 100, with a marker of this operation, of a key that is there."""
    with pytest.raises(error):
        kms.list_aliases(ListAliasesRequest(**members))
