"""Our types against botocore's KMS model, the authority on shapes: member by member, in both directions."""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import botocore.session
import msgspec
import pytest
from botocore.model import OperationModel, ServiceModel, Shape
from msgspec import Struct

from hsmkms import errors
from hsmkms.errors import ApiError
from hsmkms.model import enums
from hsmkms.model.constraints import Length, OneOf, Pattern, Range, Sensitive, Total, Width
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.model.shapes import CustomerMasterKeySpec

MODEL: Final[ServiceModel] = botocore.session.Session().get_service_model("kms")

SHAPES: Final = MODEL._service_description["shapes"]
"""The model's shapes as they are written; botocore's classes do not pass on who is at fault."""

SM2_WORDS: Final = {"SM2", "SM2PKE", "SM2DSA"}
"""Offered by AWS in China regions only, and left out here by design."""

NOT_BUILT_YET: Final = {
    "ConnectCustomKeyStore",
    "CreateCustomKeyStore",
    "DeleteCustomKeyStore",
    "DisconnectCustomKeyStore",
    "UpdateCustomKeyStore",
}

ENUM_SHAPES: Final[dict[type[StrEnum], str]] = {
    CustomerMasterKeySpec: "CustomerMasterKeySpec",
    enums.DataKeyPairSpec: "DataKeyPairSpec",
    enums.DataKeySpec: "DataKeySpec",
    enums.DryRunModifier: "DryRunModifierType",
    enums.EncapsulationAlgorithm: "EncapsulationAlgorithmSpec",
    enums.EncryptionAlgorithm: "EncryptionAlgorithmSpec",
    enums.ExpirationModel: "ExpirationModelType",
    enums.GrantOperation: "GrantOperation",
    enums.ImportState: "ImportState",
    enums.ImportType: "ImportType",
    enums.IncludeKeyMaterial: "IncludeKeyMaterial",
    enums.KeyAgreementAlgorithm: "KeyAgreementAlgorithmSpec",
    enums.KeyEncryptionMechanism: "KeyEncryptionMechanism",
    enums.KeyManager: "KeyManagerType",
    enums.KeySpec: "KeySpec",
    enums.KeyState: "KeyState",
    enums.KeyUsage: "KeyUsageType",
    enums.MacAlgorithm: "MacAlgorithmSpec",
    enums.MaterialState: "KeyMaterialState",
    enums.MessageType: "MessageType",
    enums.MultiRegionKeyType: "MultiRegionKeyType",
    enums.Origin: "OriginType",
    enums.ResourceOwner: "ResourceOwnerType",
    enums.RotationType: "RotationType",
    enums.SigningAlgorithm: "SigningAlgorithmSpec",
    enums.TrackedOperation: "KeyLastUsageTrackingOperation",
    enums.WrappingAlgorithm: "AlgorithmSpec",
    enums.WrappingKeySpec: "WrappingKeySpec",
}

ENUM_SHAPES_NOT_BUILT_YET: Final = {
    "ConnectionErrorCodeType",
    "ConnectionStateType",
    "CustomKeyStoreType",
    "XksProxyConnectivityType",
}

ERRORS_OF_CUSTOM_KEY_STORES: Final = {
    "CloudHsmClusterInvalidConfigurationException",
    "CustomKeyStoreInvalidStateException",
    "XksKeyAlreadyInUseException",
    "XksKeyInvalidConfigurationException",
    "XksKeyNotFoundException",
}
"""Listed by CreateKey and GenerateRandom, but there are no custom key stores here."""

OF_A_STORE: Final = {"CustomKeyStoreId", "CustomKeyStoreName"}
"""What our type of a custom key store has of the model's: no list ever has one."""

Tree = dict[str, Any]


def their_tree(shape: Shape) -> Tree:
    """A shape of botocore's model with all that it demands."""
    tree: Tree = {"type": shape.type_name}
    tree |= {name: shape.metadata[name] for name in ("min", "max", "pattern", "sensitive") if name in shape.metadata}
    if "enum" in shape.metadata:
        tree["enum"] = set(shape.metadata["enum"]) - SM2_WORDS
    if shape.type_name == "list":
        tree["member"] = their_tree(shape.member)
    elif shape.type_name == "map":
        tree |= {"key": their_tree(shape.key), "value": their_tree(shape.value)}
    elif shape.type_name == "structure":
        tree["members"] = {name: their_tree(member) for name, member in shape.members.items()}
        tree["required"] = set(shape.required_members)
    return tree


PLAIN_TYPES: Final = {str: "string", bytes: "blob", int: "integer", bool: "boolean", datetime: "timestamp"}


def our_tree(hint: Any) -> Tree:  # noqa: ANN401 - a type
    """One of our types in the same form."""
    tree: Tree = {}
    bare, _ = without_none(hint)
    if get_origin(bare) is Annotated:
        bare, *metadata = get_args(bare)
        for each in metadata:
            tree |= our_constraint(each)
    if get_origin(bare) is list:
        return tree | {"type": "list", "member": our_tree(get_args(bare)[0])}
    if get_origin(bare) is dict:
        key, value = get_args(bare)
        return tree | {"type": "map", "key": our_tree(key), "value": our_tree(value)}
    if bare in PLAIN_TYPES:
        return tree | {"type": PLAIN_TYPES[bare]}
    assert issubclass(bare, Struct)
    return tree | {"type": "structure", "members": our_members(bare), "required": our_required(bare)}


def our_constraint(constraint: object) -> Tree:
    """One of our constraints under the names of botocore's model."""
    match constraint:
        case Length(shortest, longest) | Range(shortest, longest):
            return {"min": shortest, "max": longest}
        case Pattern(expression):
            return {"pattern": expression}
        case OneOf(words):
            return {"enum": set(words)}
        case Sensitive():
            return {"sensitive": True}
        case Width():
            return {}  # of UTF-8: what the model says of characters bounds bytes by this
        case Total():
            return {}  # a map of hsmkms: the model does not bound maps
        case _:
            raise AssertionError(f"unknown constraint {constraint}")


def our_members(kind: type[Struct]) -> dict[str, Tree]:
    """Members of a Struct by their wire names."""
    return {name: our_tree(hint) for name, hint in wire_hints(kind)}


def our_required(kind: type[Struct]) -> set[str]:
    """Wire names of the members that must be there."""
    return {name for name, hint in wire_hints(kind) if not without_none(hint)[1]}


def wire_hints(kind: type[Struct]) -> Iterator[tuple[str, Any]]:
    """Wire name and full type of every member."""
    hints = get_type_hints(kind, include_extras=True)
    return ((field.encode_name, hints[field.name]) for field in msgspec.structs.fields(kind))


def without_none(hint: Any) -> tuple[Any, bool]:  # noqa: ANN401 - a type
    """The type itself, and whether it may be None."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    (bare,) = (argument for argument in get_args(hint) if argument is not type(None))
    return bare, True


def relax_required(declared: Tree, modelled: Tree) -> Tree:
    """Our response type as demanding as the model: it may promise more members than the model does, never fewer."""
    declared = dict(declared)
    if declared["type"] == "list":
        declared["member"] = relax_required(declared["member"], modelled["member"])
    if declared["type"] == "structure":
        assert declared["required"] >= modelled["required"]
        declared["required"] = modelled["required"]
        declared["members"] = {
            name: relax_required(member, modelled["members"][name]) if name in modelled["members"] else member
            for name, member in declared["members"].items()
        }
    return declared


def model_of(operation: Operation) -> OperationModel:
    """What botocore says about an operation."""
    return MODEL.operation_model(operation)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_request_agrees(operation: Operation) -> None:
    """A request has the model's members with their types, constraints and required flags, and no others."""
    shape = model_of(operation).input_shape
    assert OPERATIONS[operation].request.__name__ == shape.name
    assert our_tree(OPERATIONS[operation].request) == their_tree(shape)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_response_agrees(operation: Operation) -> None:
    """A response has the model's members with their types and constraints, and no others; None where there is none."""
    shape = model_of(operation).output_shape
    response = OPERATIONS[operation].response
    if shape is None or response is None:
        assert shape is response
        return
    assert response.__name__ == shape.name
    modelled = their_tree(shape)
    for name in {"KeyMetadata", "ReplicaKeyMetadata"} & set(modelled["members"]):
        # AWS lists the newer specs as well in this deprecated copy of KeySpec
        members = modelled["members"][name]["members"]
        members["CustomerMasterKeySpec"] = members["KeySpec"]
    if "CustomKeyStores" in modelled["members"]:
        store = modelled["members"]["CustomKeyStores"]["member"]
        store["members"] = {name: member for name, member in store["members"].items() if name in OF_A_STORE}
    assert relax_required(our_tree(response), modelled) == modelled


def test_every_operation_is_accounted_for() -> None:
    """An operation of botocore's model is either built or listed here as not built yet."""
    assert set(MODEL.operation_names) - set(OPERATIONS) == NOT_BUILT_YET
    assert set(OPERATIONS) <= set(MODEL.operation_names)
    assert set(Operation) == set(MODEL.operation_names)


@pytest.mark.parametrize("words", ENUM_SHAPES)
def test_enumeration_agrees(words: type[StrEnum]) -> None:
    """An enumeration has exactly the words of its shape, SM2 apart."""
    assert set(words) == set(MODEL.shape_for(ENUM_SHAPES[words]).enum) - SM2_WORDS


def test_every_enumeration_is_compared() -> None:
    """Every enumeration of hsmkms is compared, and so is every new one of botocore's."""
    declared = {each for each in vars(enums).values() if isinstance(each, type) and issubclass(each, StrEnum)}
    assert declared - {StrEnum, enums.Word, Operation} == set(ENUM_SHAPES) - {CustomerMasterKeySpec}
    modelled = {name for name in MODEL.shape_names if "enum" in MODEL.shape_for(name).metadata}
    assert modelled - set(ENUM_SHAPES.values()) == ENUM_SHAPES_NOT_BUILT_YET


@pytest.mark.parametrize("operation", OPERATIONS)
def test_listed_errors_exist(operation: Operation) -> None:
    """Every error that the model lists for an operation is in our tree, with the model's code and side of fault."""
    for shape in model_of(operation).error_shapes:
        if shape.name in ERRORS_OF_CUSTOM_KEY_STORES:
            continue
        error = getattr(errors, shape.name)
        assert issubclass(error, ApiError)
        assert error.code == shape.name
        assert error.fault == ("server" if SHAPES[shape.name].get("fault") else "client")


def test_excluded_errors_are_listed_and_unknown_here() -> None:
    """The exclusions are real: the model lists each of them, and our tree has none."""
    listed = {shape.name for operation in OPERATIONS for shape in model_of(operation).error_shapes}
    assert listed >= ERRORS_OF_CUSTOM_KEY_STORES
    assert not [name for name in ERRORS_OF_CUSTOM_KEY_STORES if hasattr(errors, name)]


def all_structures() -> set[type[Struct]]:
    """Every request, response and structure inside one."""
    structures: set[type[Struct]] = set()
    waiting: list[Any] = [kind for operation in OPERATIONS.values() for kind in (operation.request, operation.response)]
    while waiting:
        hint = waiting.pop()
        if isinstance(hint, type) and issubclass(hint, Struct):
            if hint not in structures:
                structures.add(hint)
                waiting += [inner for _, inner in wire_hints(hint)]
        else:
            waiting += [argument for argument in get_args(hint) if get_args(argument) or isinstance(argument, type)]
    return structures


@pytest.mark.parametrize("kind", sorted(all_structures(), key=lambda each: each.__name__))
def test_structures_are_frozen_and_omit_absence_only(kind: type[Struct]) -> None:
    """Values cannot change, and the only default, which the wire leaves out, is None: false is never left out."""
    config = kind.__struct_config__
    assert config.frozen
    assert config.omit_defaults
    assert all(field.default in (None, msgspec.NODEFAULT) for field in msgspec.structs.fields(kind))
    assert all(field.default_factory is msgspec.NODEFAULT for field in msgspec.structs.fields(kind))
