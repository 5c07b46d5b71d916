"""Parse the principals of policies and grants, and match callers against them.

Only users of the account and its root can be callers. Roles, their sessions, other accounts and AWS services may be
named, but never match. Sources: IAM User Guide, "AWS JSON policy elements: Principal" and "IAM identifiers"; AWS KMS
Developer Guide, "Key policies" and "Grants in AWS KMS".
"""

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from msgspec import Struct

from hsmkms.model.ids import PARTITION, is_user_id
from hsmkms.rules.iam.question import Question

EVERYBODY: Final = "*"

_NAME: Final = r"[A-Za-z0-9_+=,.@-]{1,64}"
_PATH: Final = r"/([!-)+-.0->@-~]+/)*"
"""Slashes and printable ASCII characters except wildcards, which no path has."""

_match_arn: Final = re.compile(
    rf"arn:{PARTITION}:(?P<service>iam|sts)::(?P<account>[0-9]{{12}}):(?P<rest>.+)"
).fullmatch
_match_user: Final = re.compile(rf"user(?P<path>{_PATH})(?P<name>{_NAME})").fullmatch
_match_role: Final = re.compile(rf"role{_PATH}{_NAME}").fullmatch
_match_session: Final = re.compile(rf"assumed-role/{_NAME}/[A-Za-z0-9_+=,.@-]{{2,64}}").fullmatch
_match_federated: Final = re.compile(r"federated-user/[A-Za-z0-9_+=,.@-]{2,32}").fullmatch
_match_account: Final = re.compile(r"[0-9]{12}").fullmatch
_match_role_id: Final = re.compile(r"AROA[A-Z2-7]{17}").fullmatch
_match_service: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.(amazonaws\.com(\.cn)?|amazon\.com)").fullmatch
_match_path: Final = re.compile(r"/([A-Za-z0-9_+=,.@-]+/)*").fullmatch
_MAX_PATH: Final = 512


class Form(Enum):
    """Kind of a principal, determined by its form."""

    ACCOUNT = auto()
    USER = auto()
    USER_ID = auto()
    ROLE = auto()
    """A role, a session of a role, or the unique id of a role."""
    FEDERATED = auto()


class Principal(Struct, frozen=True):
    """A parsed principal. ``account``: its account; None for a unique id, which does not contain it."""

    text: str
    form: Form
    account: str | None

    def can_call(self, account: str) -> bool:
        """Return True if it can match a caller of the account: its root, or one of its users."""
        if self.form is Form.USER_ID:
            return True
        return self.account == account and self.form in (Form.ACCOUNT, Form.USER)

    def must_exist(self, account: str) -> bool:
        """Return True for users and roles of the account: naming one that does not exist is a mistake."""
        return self.account in (None, account) and self.form in (Form.USER, Form.USER_ID, Form.ROLE)


class Principals(Struct, frozen=True):
    """The principals of a key policy's statement: users by ARN or unique id. ``inverted``: all others (NotPrincipal).

    ``strangers``: named principals that can never be callers.
    """

    everybody: bool
    account: bool
    users: frozenset[str]
    inverted: bool = False
    strangers: tuple[str, ...] = ()

    def directly(self, question: Question) -> bool:
        """Return True if the caller is named individually, or by ``*``."""
        identity = question.identity
        return self.everybody or identity.arn in self.users or identity.user_id in self.users

    def covers(self, question: Question) -> bool:
        """Return True if a Deny applies to the caller: named individually, by ``*``, or by the account."""
        if self.inverted:
            root = self.account and question.identity.user_name is None
            return not (root or self.directly(question))
        return self.account or self.directly(question)


def parse(text: str) -> Principal | None:
    """Parse a principal under ``AWS`` of a policy, except ``*``. None if the form is invalid."""
    if _match_account(text):
        return Principal(text, Form.ACCOUNT, text)
    if is_user_id(text):
        return Principal(text, Form.USER_ID, None)
    if _match_role_id(text):
        return Principal(text, Form.ROLE, None)
    return parse_arn(text)


def parse_arn(text: str) -> Principal | None:
    """Parse the ARN of a principal, the only form that grants accept. None if it is not one."""
    match = _match_arn(text)
    form = _form(match["service"], match["rest"]) if match is not None else None
    return Principal(text, form, match["account"]) if match is not None and form is not None else None


def user_of(arn: str) -> tuple[str, str]:
    """Return path and name in the ARN of a user."""
    match = _match_user(arn.split(":", 5)[-1])
    return (match["path"], match["name"]) if match is not None else ("", "")


def is_service(text: str) -> bool:
    """Return True for the name of an AWS service, such as ``logs.eu-central-1.amazonaws.com``."""
    return _match_service(text) is not None


def is_path(text: str) -> bool:
    """Return True for a path that a new user can have."""
    return len(text) <= _MAX_PATH and _match_path(text) is not None


def gather(
    named: Iterable[Principal], account: str, *, everybody: bool, services: Iterable[str], inverted: bool
) -> Principals:
    """Combine the principals that a statement names."""
    known = list(named)
    return Principals(
        everybody=everybody,
        account=any(each.form is Form.ACCOUNT and each.account == account for each in known),
        users=frozenset(each.text for each in known if each.form is not Form.ACCOUNT and each.can_call(account)),
        inverted=inverted,
        strangers=(*(each.text for each in known if not each.can_call(account)), *services),
    )


def _form(service: str, rest: str) -> Form | None:
    return next((form for wanted, match, form in _FORMS if wanted == service and match(rest)), None)


_FORMS: Final = (
    ("iam", re.compile("root").fullmatch, Form.ACCOUNT),
    ("iam", _match_user, Form.USER),
    ("iam", _match_role, Form.ROLE),
    ("sts", _match_session, Form.ROLE),
    ("sts", _match_federated, Form.FEDERATED),
)
