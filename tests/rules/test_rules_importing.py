"""What may be imported into which key, until when, and under which name: pure tables."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import (
    ApiError,
    ExpiredImportTokenException,
    IncorrectKeyMaterialException,
    InvalidImportTokenException,
    KMSInvalidStateException,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.model.enums import ExpirationModel, MaterialState, Origin, WrappingAlgorithm
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.rules import importing as rules
from hsmkms.rules.import_token import Claims
from hsmkms.rules.importing import Choice, Expiry, ImportPolicy
from hsmkms.rules.rotation import RotationPolicy

MakeKey = Callable[..., KeyRecord]
MakeMaterial = Callable[..., MaterialRecord]

TICK = timedelta(microseconds=1)
NOW = datetime(2028, 2, 28, 12, 0, 0, tzinfo=UTC)
MISSION, TODAY = RotationPolicy(), RotationPolicy(imported_on_demand=True)
EXPIRES, STAYS = ExpirationModel.KEY_MATERIAL_EXPIRES, ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE
NEW, EXISTING = "NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"
ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


# -- names ------------------------------------------------------------------------------------------------------------


def test_material_id_never_changes() -> None:
    """The name of given material in a given key is this one (by sha256sum) for ever: it stands in every ciphertext."""
    name = rules.material_id("AES_CMAC", "1234abcd-12ab-34cd-56ef-1234567890ab", bytes(range(16)))
    assert name == "07c0fcbf9e82b8f46e4e0c4c0c13a67fd3fc64ad47ff672113f46f6fa0a5f0c4"


names = st.tuples(
    st.sampled_from(["AES_CMAC", "SHA256_HMAC"]),
    st.text("0123456789abcdef-", min_size=1, max_size=36),
    st.binary(min_size=16, max_size=32),
)


@given(names, names)
def test_material_ids_differ(first: tuple[str, str, bytes], second: tuple[str, str, bytes]) -> None:
    """Another PRF, key or output is another name; each is 64 lower-case hex digits."""
    one, two = rules.material_id(*first), rules.material_id(*second)
    assert re.fullmatch("[0-9a-f]{64}", one)
    assert (one == two) == (first == second)


# -- what may be asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", list(Origin))
def test_origin(make_key: MakeKey, origin: Origin) -> None:
    """Only keys of origin EXTERNAL take material; the refusal is AWS's, word for word."""
    key = make_key(origin=origin)
    if origin is Origin.EXTERNAL:
        rules.check_origin(key)
        return
    with pytest.raises(UnsupportedOperationException) as caught:
        rules.check_origin(key)
    assert str(caught.value) == f"{key.arn} origin is {origin} which is not valid for this operation."


@pytest.mark.parametrize("algorithm", list(WrappingAlgorithm))
def test_algorithms(algorithm: WrappingAlgorithm) -> None:
    """What the token does is taken; anything else is refused with the list of what it does."""
    possible = (WrappingAlgorithm.RSAES_OAEP_SHA_1, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1)
    if algorithm in possible:
        rules.check_algorithm(algorithm, possible)
        return
    with pytest.raises(UnsupportedOperationException, match=f"{algorithm}.*{', '.join(possible)}"):
        rules.check_algorithm(algorithm, possible)
    with pytest.raises(UnsupportedOperationException, match="none of them"):
        rules.check_algorithm(algorithm, ())


@pytest.mark.parametrize(
    ("model", "valid_to", "expected"),
    [
        (None, NOW + TICK, Expiry(EXPIRES, NOW + TICK)),
        (EXPIRES, NOW + TICK, Expiry(EXPIRES, NOW + TICK)),
        (EXPIRES, NOW + timedelta(days=9999), Expiry(EXPIRES, NOW + timedelta(days=9999))),
        (STAYS, None, Expiry(STAYS, None)),
        (None, None, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"),
        (EXPIRES, None, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"),
        (STAYS, NOW + TICK, "A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE"),
        (EXPIRES, NOW, "The validTo date 2028-02-28 12:00:00 UTC must be in the future"),
        (EXPIRES, NOW - TICK, "must be in the future"),
        (EXPIRES, datetime(2030, 1, 1), "must have a time zone"),  # noqa: DTZ001 - that is what is wrong with it
    ],
)
def test_expiry(model: str | None, valid_to: datetime | None, expected: Expiry | str) -> None:
    """Material expires unless the caller says otherwise, at a date that lies in the future."""
    if isinstance(expected, Expiry):
        assert rules.expiry(model, valid_to, ImportPolicy(), NOW) == expected
        return
    with pytest.raises(ValidationException, match=expected):
        rules.expiry(model, valid_to, ImportPolicy(), NOW)


def test_a_year_at_most() -> None:
    """365 days of 24 hours are the limit of today's AWS, to the microsecond, over a leap day."""
    policy, limit = ImportPolicy(valid_to_within_days=365), datetime(2029, 2, 27, 12, 0, 0, tzinfo=UTC)
    assert rules.expiry(None, limit, policy, NOW).valid_to == limit
    with pytest.raises(ValidationException, match="at most 365 days"):
        rules.expiry(None, limit + TICK, policy, NOW)


@pytest.mark.parametrize(
    ("key_id", "region", "left", "error"),
    [
        (None, "eu-central-1", TICK, None),
        (None, "eu-central-1", timedelta(hours=24), None),
        (None, "eu-central-1", timedelta(), ExpiredImportTokenException),
        (None, "eu-central-1", -TICK, ExpiredImportTokenException),
        ("another", "eu-central-1", TICK, InvalidImportTokenException),
        (None, "us-east-1", TICK, InvalidImportTokenException),
        ("another", "eu-central-1", -TICK, InvalidImportTokenException),
    ],
)
def test_claims(
    make_key: MakeKey, key_id: str | None, region: str, left: timedelta, error: type[ApiError] | None
) -> None:
    """An import token is good for its key in its region until its instant, and not at it."""
    key = make_key(origin=Origin.EXTERNAL)
    algorithm = WrappingAlgorithm.RSAES_OAEP_SHA_1
    claims = Claims(key_id or key.key_id, region, bytes(16), algorithm, NOW + left)
    if error is None:
        rules.check_claims(claims, key, NOW)
        return
    with pytest.raises(error, match=r"get (new parameters|one) with GetParametersForImport"):
        rules.check_claims(claims, key, NOW)


def test_limits() -> None:
    """Wrapping keys live 24 hours, at most 4 for a key and 64 in all."""
    assert (timedelta(hours=24), 4, 64) == (rules.VALID_FOR, rules.MAX_LIVE_PER_KEY, rules.MAX_LIVE)


# -- which material it is ---------------------------------------------------------------------------------------------

CURRENT, FORMER, WAITING = MaterialState.CURRENT, MaterialState.NON_CURRENT, MaterialState.PENDING_ROTATION
KEYS = {
    "empty": (),
    "one": ((ONE, CURRENT),),
    "two": ((ONE, FORMER), (TWO, CURRENT)),
    "waiting": ((ONE, CURRENT), (TWO, WAITING)),
}
# Key, material that comes, ImportType, and what it becomes by the mission's rules and by today's: a state, or an error.
CHOICES = """
empty   1  -        CURRENT   CURRENT
empty   1  NEW      CURRENT   CURRENT
empty   1  EXISTING incorrect incorrect
one     1  -        CURRENT   CURRENT
one     1  NEW      incorrect incorrect
one     1  EXISTING CURRENT   CURRENT
one     2  -        incorrect incorrect
one     2  NEW      incorrect PENDING_ROTATION
one     2  EXISTING incorrect incorrect
two     1  -        NON_CURRENT NON_CURRENT
two     2  EXISTING CURRENT   CURRENT
two     3  -        incorrect incorrect
two     3  NEW      incorrect PENDING_ROTATION
two     1  NEW      incorrect incorrect
waiting 2  -        PENDING_ROTATION PENDING_ROTATION
waiting 2  NEW      incorrect incorrect
waiting 3  NEW      incorrect state
waiting 3  -        incorrect incorrect
"""
ROWS = [row.split() for row in CHOICES.splitlines() if row]
ERRORS = {"incorrect": IncorrectKeyMaterialException, "state": KMSInvalidStateException}


@pytest.mark.parametrize("column", [3, 4], ids=["mission", "today"])
@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_choices(make_key: MakeKey, make_material: MakeMaterial, row: list[str], column: int) -> None:
    """Each key and material of the table, with each ImportType, by either rule."""
    made = enumerate(KEYS[row[0]], 1)
    materials = (make_material(material_id=name, state=state, sequence=number) for number, (name, state) in made)
    key = make_key(origin=Origin.EXTERNAL, materials=tuple(materials))
    name, kind, cell = row[1] * 64, {"-": None, "NEW": NEW, "EXISTING": EXISTING}[row[2]], row[column]
    policy = (MISSION, TODAY)[column - 3]
    if cell in ERRORS:
        with pytest.raises(ERRORS[cell]):
            rules.choose(key, [name], kind, None, policy)
        return
    assert rules.choose(key, [name], kind, None, policy) == Choice(name, key.material(name), MaterialState(cell))


def test_known_by_any_of_its_names(make_key: MakeKey, make_material: MakeMaterial) -> None:
    """Material that was named by another PRF (on another token) is known again; new material gets the first name."""
    key = make_key(origin=Origin.EXTERNAL, materials=(make_material(material_id=TWO),))
    assert rules.choose(key, [ONE, TWO], None, None, MISSION).material_id == TWO
    assert rules.choose(make_key(origin=Origin.EXTERNAL), [ONE, TWO], None, None, MISSION).material_id == ONE


@pytest.mark.parametrize(
    ("names", "kind", "wanted", "error"),
    [
        ([ONE], None, ONE, None),
        ([ONE], EXISTING, ONE, None),
        ([ONE], None, TWO, IncorrectKeyMaterialException),
        ([TWO], None, ONE, IncorrectKeyMaterialException),
        ([TWO], None, TWO, IncorrectKeyMaterialException),
        ([ONE], NEW, ONE, ValidationException),
        ([TWO], NEW, TWO, ValidationException),
    ],
)
def test_named_material(
    make_key: MakeKey,
    make_material: MakeMaterial,
    names: list[str],
    kind: str | None,
    wanted: str,
    error: type[ApiError] | None,
) -> None:
    """A KeyMaterialId in the request must be that of the bytes that come, and of an earlier import."""
    key = make_key(origin=Origin.EXTERNAL, materials=(make_material(material_id=ONE),))
    if error is None:
        assert rules.choose(key, names, kind, wanted, TODAY).material_id == wanted
        return
    with pytest.raises(error):
        rules.choose(key, names, kind, wanted, TODAY)


def test_named_material_of_an_empty_key(make_key: MakeKey) -> None:
    """Nothing was imported yet, so no material can be named: new material is the default, and that takes no name."""
    with pytest.raises(ValidationException, match="leave it out for new material"):
        rules.choose(make_key(origin=Origin.EXTERNAL), [ONE], None, ONE, MISSION)


def test_words_for_a_second_waiting_material(make_key: MakeKey, make_material: MakeMaterial) -> None:
    """AWS's sentence names both materials and the key."""
    waiting = make_material(material_id=TWO, sequence=2, state=WAITING)
    key = make_key(origin=Origin.EXTERNAL, materials=(make_material(material_id=ONE), waiting))
    with pytest.raises(KMSInvalidStateException) as caught:
        rules.choose(key, [THREE], NEW, None, TODAY)
    assert str(caught.value) == (
        f"New key material (id: {THREE}) cannot be imported into KMS key {key.arn}, because another key material "
        f"(id: {TWO}) is pending rotation."
    )
