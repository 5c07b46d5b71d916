"""Principals as policies and grants name them: which forms there are, and who of them can call here.

Users of the account and its root call here. Roles, their sessions, other accounts and services of AWS may be named,
and match no caller. Sources: IAM User Guide, "AWS JSON policy elements: Principal" and "IAM identifiers"; AWS KMS
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
"""Slashes and what is printable in ASCII, but for the wildcards, which name nobody."""

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
    """What a principal is, by its form."""

    ACCOUNT = auto()
    USER = auto()
    USER_ID = auto()
    ROLE = auto()
    """A role, a session of one, or the unique id of one."""
    FEDERATED = auto()


class Principal(Struct, frozen=True):
    """A principal by its form. ``account``: whose it is; None for a unique id, which does not say."""

    text: str
    form: Form
    account: str | None

    def can_call(self, account: str) -> bool:
        """True if a caller of the account may be meant: its root, or one of its users."""
        if self.form is Form.USER_ID:
            return True
        return self.account == account and self.form in (Form.ACCOUNT, Form.USER)

    def must_exist(self, account: str) -> bool:
        """True for users and roles of the account: whoever names one that is not there has made a mistake."""
        return self.account in (None, account) and self.form in (Form.USER, Form.USER_ID, Form.ROLE)


class Principals(Struct, frozen=True):
    """Whom a statement of a key policy names: users by ARN or unique id. ``inverted``: all others (NotPrincipal).

    ``strangers``: those whom it names and who cannot call here.
    """

    everybody: bool
    account: bool
    users: frozenset[str]
    inverted: bool = False
    strangers: tuple[str, ...] = ()

    def directly(self, question: Question) -> bool:
        """Return True for a caller who is named himself, or by ``*``."""
        identity = question.identity
        return self.everybody or identity.arn in self.users or identity.user_id in self.users

    def covers(self, question: Question) -> bool:
        """Return True for a caller whom a Deny means: named himself, by ``*``, or by his account."""
        if self.inverted:
            root = self.account and question.identity.user_name is None
            return not (root or self.directly(question))
        return self.account or self.directly(question)


def parse(text: str) -> Principal | None:
    """Read a principal under ``AWS`` of a policy, but for ``*``. None for what has no form of one."""
    if _match_account(text):
        return Principal(text, Form.ACCOUNT, text)
    if is_user_id(text):
        return Principal(text, Form.USER_ID, None)
    if _match_role_id(text):
        return Principal(text, Form.ROLE, None)
    return parse_arn(text)


def parse_arn(text: str) -> Principal | None:
    """Read the ARN of a principal, the one form that grants take. None for what is none."""
    found = _match_arn(text)
    form = _form(found["service"], found["rest"]) if found is not None else None
    return Principal(text, form, found["account"]) if found is not None and form is not None else None


def user_of(arn: str) -> tuple[str, str]:
    """Path and name in the ARN of a user."""
    found = _match_user(arn.split(":", 5)[-1])
    return (found["path"], found["name"]) if found is not None else ("", "")


def is_service(text: str) -> bool:
    """Return True for the name of a service of AWS, such as ``logs.eu-central-1.amazonaws.com``."""
    return _match_service(text) is not None


def is_path(text: str) -> bool:
    """Return True for a path that a new user can have."""
    return len(text) <= _MAX_PATH and _match_path(text) is not None


def gather(
    named: Iterable[Principal], account: str, *, everybody: bool, services: Iterable[str], inverted: bool
) -> Principals:
    """Gather whom a statement names."""
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
