"""Transactions that the database server aborts in favour of others: what can be repeated is, and nothing else."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from service_sites import NewFolder, Site, new_alias, new_key
from sqlalchemy import Connection, text

from hsmkms.errors import DependencyTimeoutException
from hsmkms.kms import Kms
from hsmkms.model.aliases import ListAliasesRequest
from hsmkms.store import aliases, audit_files, keys


@pytest.fixture
def kms(prepared_on_server: Site, new_folder: NewFolder) -> Iterator[Kms]:
    """An open installation on PostgreSQL."""
    site = prepared_on_server.copy(new_folder())
    with site.open() as opened:
        yield opened
    site.drop()


def aborting(work: Callable[..., Any], state: str, times: int, runs: list[str]) -> Callable[..., Any]:
    """Do the work, and have the server abort the transaction the first times."""

    def run(tx: Connection, *arguments: object) -> object:
        result = work(tx, *arguments)
        runs.append(state)
        if len(runs) <= times:
            tx.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
        return result

    return run


def records(kms: Kms, name: str) -> list[dict[str, Any]]:
    """The audit records of an operation."""
    kms.operator.audit.log.flush()
    lines = [
        json.loads(line)["record"]
        for parts in audit_files.segments(kms.operator.audit.folder).values()
        for part in parts
        for line in audit_files.lines(part.path)
    ]
    return [each for each in lines if each["eventName"] == name]


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_change_is_repeated(kms: Kms, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """It is made once, sealed, and has one record with each resource once."""
    key_id, runs = new_key(kms).key_id, list[str]()
    monkeypatch.setattr(aliases, "insert", aborting(aliases.insert, state, 2, runs))
    new_alias(kms, "alias/repeated", key_id)
    assert len(runs) == 3
    assert [each.alias_name for each in kms.list_aliases(ListAliasesRequest(key_id=key_id)).aliases] == [
        "alias/repeated"
    ]
    (record,) = records(kms, "CreateAlias")
    arns = [each["ARN"] for each in record["resources"]]
    assert "errorCode" not in record
    assert len(arns) == len(set(arns)) == 2
    assert kms.operator.audit.verify_rows() == []


def test_a_change_that_is_always_aborted(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few times the error is one that SDKs repeat, and nothing is changed."""
    key_id, runs = new_key(kms).key_id, list[str]()
    monkeypatch.setattr(aliases, "insert", aborting(aliases.insert, "40001", 1000, runs))
    with pytest.raises(DependencyTimeoutException):
        new_alias(kms, "alias/never", key_id)
    assert len(runs) == 6
    assert not kms.list_aliases(ListAliasesRequest(key_id=key_id)).aliases
    (record,) = records(kms, "CreateAlias")
    assert record["errorCode"] == "DependencyTimeoutException"


def test_work_on_the_token_is_not_repeated(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key's creation ends with its first transaction: the client repeats the whole."""
    runs: list[str] = []
    monkeypatch.setattr(keys, "insert_intent", aborting(keys.insert_intent, "40001", 1, runs))
    with pytest.raises(DependencyTimeoutException):
        new_key(kms)
    assert len(runs) == 1
    assert kms.operator.find_differences() == []
    new_key(kms)
