"""Random sequences of operations against a simple model of what must be."""

import itertools
from collections.abc import Iterator
from typing import Any, Final

import examples
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct
from service_sites import new_alias, new_key, seal, unseal

from hsmkms.errors import DisabledException, InvalidCiphertextException, NotFoundException
from hsmkms.kms import Kms
from hsmkms.model.aliases import DeleteAliasRequest, ListAliasesRequest, UpdateAliasRequest
from hsmkms.model.crypto import GenerateDataKeyRequest, ReEncryptRequest
from hsmkms.model.keys import (
    DescribeKeyRequest,
    DisableKeyRequest,
    EnableKeyRequest,
    ListKeysRequest,
    UpdateKeyDescriptionRequest,
)
from hsmkms.model.tags import ListResourceTagsRequest, Tag, TagResourceRequest, UntagResourceRequest

CONTEXTS: Final = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
NAMES: Final = itertools.count()


class ModelKey(Struct):
    """What the model knows of a key."""

    arn: str
    material: str | None
    enabled: bool = True
    description: str = ""
    tags: dict[str, str] = {}


class Sealed(Struct, frozen=True):
    """A ciphertext, and what must open it."""

    ciphertext: bytes
    key_id: str
    plaintext: bytes
    context: dict[str, str]


SealedOrNothing = Sealed | MultipleResults[Sealed]


class KmsMachine(RuleBasedStateMachine):
    """Operations on keys and aliases; the model is the two dictionaries."""

    key_ids: Bundle[str] = Bundle("key_ids")
    names: Bundle[str] = Bundle("names")
    sealed: Bundle[Sealed] = Bundle("sealed")

    def __init__(self, kms: Kms) -> None:
        super().__init__()
        self.kms = kms
        self.keys: dict[str, ModelKey] = {}
        self.aliases: dict[str, str] = {}

    @rule(target=key_ids, description=st.text(max_size=5))
    def create(self, description: str) -> str:
        """A new key has an id that no key had."""
        made = new_key(self.kms, description=description)
        assert made.key_id not in self.keys
        self.keys[made.key_id] = ModelKey(made.arn, made.current_key_material_id, description=description)
        return made.key_id

    @rule(key_id=key_ids)
    def enable(self, key_id: str) -> None:
        """EnableKey works in either state."""
        self.kms.enable_key(EnableKeyRequest(key_id=key_id))
        self.keys[key_id].enabled = True

    @rule(key_id=key_ids)
    def disable(self, key_id: str) -> None:
        """DisableKey works in either state."""
        self.kms.disable_key(DisableKeyRequest(key_id=key_id))
        self.keys[key_id].enabled = False

    @rule(key_id=key_ids, text=st.text(max_size=5))
    def describe_anew(self, key_id: str, text: str) -> None:
        """The description is replaced."""
        self.kms.update_key_description(UpdateKeyDescriptionRequest(key_id=key_id, description=text))
        self.keys[key_id].description = text

    @rule(key_id=key_ids, name=st.sampled_from("abc"), value=st.text(max_size=3))
    def tag(self, key_id: str, name: str, value: str) -> None:
        """A tag is set."""
        self.kms.tag_resource(TagResourceRequest(key_id=key_id, tags=[Tag(tag_key=name, tag_value=value)]))
        self.keys[key_id].tags = self.keys[key_id].tags | {name: value}

    @rule(key_id=key_ids, name=st.sampled_from("abc"))
    def untag(self, key_id: str, name: str) -> None:
        """A tag is removed, if it is there."""
        self.kms.untag_resource(UntagResourceRequest(key_id=key_id, tag_keys=[name]))
        self.keys[key_id].tags = {each: value for each, value in self.keys[key_id].tags.items() if each != name}

    @rule(target=names, key_id=key_ids)
    def name_key(self, key_id: str) -> str:
        """A key gets a name."""
        name = f"alias/machine-{next(NAMES)}"
        new_alias(self.kms, name, key_id)
        self.aliases[name] = key_id
        return name

    @rule(name=names, key_id=key_ids)
    def move(self, name: str, key_id: str) -> None:
        """A name moves to another key."""
        self.kms.update_alias(UpdateAliasRequest(alias_name=name, target_key_id=key_id))
        self.aliases[name] = key_id

    @rule(name=consumes(names))
    def drop_name(self, name: str) -> None:
        """A name goes, and leads nowhere."""
        self.kms.delete_alias(DeleteAliasRequest(alias_name=name))
        del self.aliases[name]
        with pytest.raises(NotFoundException):
            seal(self.kms, name)

    @rule(target=sealed, key_id=key_ids, plaintext=st.binary(min_size=1, max_size=64), context=CONTEXTS)
    def encrypt(self, key_id: str, plaintext: bytes, context: dict[str, str]) -> SealedOrNothing:
        """An enabled key encrypts, a disabled one refuses."""
        return self._sealed(key_id, key_id, plaintext, context)

    @rule(target=sealed, name=names, plaintext=st.binary(min_size=1, max_size=64), context=CONTEXTS)
    def encrypt_by_name(self, name: str, plaintext: bytes, context: dict[str, str]) -> SealedOrNothing:
        """A name encrypts under the key that it leads to now."""
        return self._sealed(name, self.aliases[name], plaintext, context)

    @rule(target=sealed, key_id=key_ids, length=st.integers(1, 64), context=CONTEXTS)
    def data_key(self, key_id: str, length: int, context: dict[str, str]) -> SealedOrNothing:
        """A data key is a ciphertext like any other."""
        request = GenerateDataKeyRequest(key_id=key_id, number_of_bytes=length, encryption_context=context)
        if not self.keys[key_id].enabled:
            with pytest.raises(DisabledException):
                self.kms.generate_data_key(request)
            return _nothing()
        made = self.kms.generate_data_key(request)
        assert made.plaintext is not None
        return Sealed(made.ciphertext_blob, key_id, made.plaintext, context)

    @rule(target=sealed, old=sealed, key_id=key_ids, context=CONTEXTS)
    def re_encrypt(self, old: Sealed, key_id: str, context: dict[str, str]) -> SealedOrNothing:
        """A ciphertext moves if both keys are enabled."""
        request = ReEncryptRequest(
            ciphertext_blob=old.ciphertext,
            destination_key_id=key_id,
            source_encryption_context=old.context,
            destination_encryption_context=context,
        )
        if not (self.keys[key_id].enabled and self.keys[old.key_id].enabled):
            with pytest.raises(DisabledException):
                self.kms.re_encrypt(request)
            return _nothing()
        return Sealed(self.kms.re_encrypt(request).ciphertext_blob, key_id, old.plaintext, context)

    @rule(sealed=sealed, wrong=CONTEXTS)
    def decrypt(self, sealed: Sealed, wrong: dict[str, str]) -> None:
        """A ciphertext opens with its context and with no other, while its key is enabled."""
        if not self.keys[sealed.key_id].enabled:
            with pytest.raises(DisabledException):
                unseal(self.kms, sealed.ciphertext, encryption_context=sealed.context)
            return
        assert unseal(self.kms, sealed.ciphertext, encryption_context=sealed.context) == sealed.plaintext
        if wrong != sealed.context:
            with pytest.raises(InvalidCiphertextException):
                unseal(self.kms, sealed.ciphertext, encryption_context=wrong)

    @invariant()
    def keys_are_as_they_should_be(self) -> None:
        """Ids, ARNs and materials never change; the rest is what was last set."""
        for key_id, key in self.keys.items():
            metadata = self.kms.describe_key(DescribeKeyRequest(key_id=key_id)).key_metadata
            assert (metadata.arn, metadata.current_key_material_id) == (key.arn, key.material)
            assert (metadata.enabled, metadata.description) == (key.enabled, key.description)

    @invariant()
    def aliases_lead_where_they_should(self) -> None:
        """Every name leads to its key."""
        for name, key_id in self.aliases.items():
            assert self.kms.describe_key(DescribeKeyRequest(key_id=name)).key_metadata.key_id == key_id

    def teardown(self) -> None:
        """At the end everything is listed, every ciphertext opens, and database and token agree."""
        listed = {entry.key_id for entry in self._listed()}
        assert listed >= set(self.keys)
        for key_id, key in self.keys.items():
            tags = self.kms.list_resource_tags(ListResourceTagsRequest(key_id=key_id)).tags
            assert {tag.tag_key: tag.tag_value for tag in tags} == key.tags
            names = self.kms.list_aliases(ListAliasesRequest(key_id=key_id)).aliases
            assert {each.alias_name for each in names} == {n for n, target in self.aliases.items() if target == key_id}
            self.kms.enable_key(EnableKeyRequest(key_id=key_id))
        for name in self.aliases:
            self.kms.delete_alias(DeleteAliasRequest(alias_name=name))
        for ciphertext in self._all_sealed():
            assert (
                unseal(self.kms, ciphertext.ciphertext, encryption_context=ciphertext.context) == ciphertext.plaintext
            )
        assert self.kms.operator.find_differences() == []
        assert self.kms.operator.audit.verify_rows() == []

    def _sealed(self, named: str, key_id: str, plaintext: bytes, context: dict[str, str]) -> SealedOrNothing:
        if not self.keys[key_id].enabled:
            with pytest.raises(DisabledException):
                seal(self.kms, named, plaintext, encryption_context=context)
            return _nothing()
        return Sealed(seal(self.kms, named, plaintext, encryption_context=context), key_id, plaintext, context)

    def _listed(self) -> Iterator[Any]:
        marker = None
        while True:
            page = self.kms.list_keys(ListKeysRequest(limit=10, marker=marker))
            yield from page.keys
            marker = page.next_marker
            if marker is None:
                return

    def _all_sealed(self) -> list[Sealed]:
        return [value for value in self.names_to_values.values() if isinstance(value, Sealed)]


def _nothing() -> MultipleResults[Sealed]:
    return multiple()


def test_random_sequences(kms: Kms) -> None:
    """Random sequences of operations have the outcomes that the model predicts.

    The machine's rules and invariants assert this; at the end it is shown that they have run.
    """
    machines: list[KmsMachine] = []

    def new_machine() -> KmsMachine:
        machines.append(KmsMachine(kms))
        return machines[-1]

    run_state_machine_as_test(
        new_machine,
        settings=settings(
            max_examples=examples.count(suite=8, long=100),
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert any(machine.keys for machine in machines)
    assert any(machine.aliases for machine in machines)
