"""Record the operator's procedures in the audit log, each under an event name that is no operation of the KMS API."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from hsmkms.model.audit import IAM_SOURCE, KMS_SOURCE
from hsmkms.service.runtime.core import Core

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class HasCore(Protocol):
    """An object whose methods are the operator's procedures on an open installation."""

    _core: Core


AnyOperator = TypeVar("AnyOperator", bound=HasCore)
Method = Callable[Concatenate[AnyOperator, Arguments], Answer]


def recorded(
    event: str, source: str = KMS_SOURCE, **shown: str
) -> Callable[[Method[AnyOperator, Arguments, Answer]], Method[AnyOperator, Arguments, Answer]]:
    """Record every call of a method. ``shown``: the parameters to record, and their names in the record."""

    def decorate(method: Method[AnyOperator, Arguments, Answer]) -> Method[AnyOperator, Arguments, Answer]:
        signature = inspect.signature(method)

        @wraps(method)
        def act(instance: AnyOperator, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
            core = instance._core  # noqa: SLF001 - the protocol's member
            given = signature.bind(instance, *args, **kwargs).arguments
            parameters = {name: _plain(given[each]) for each, name in shown.items() if given.get(each) is not None}
            with core.audit.acting(event, core.installation.default_region, parameters or None, source=source):
                return method(instance, *args, **kwargs)

        return act

    return decorate


def recorded_in_iam(
    event: str, **shown: str
) -> Callable[[Method[AnyOperator, Arguments, Answer]], Method[AnyOperator, Arguments, Answer]]:
    """Record every call of a method as an event of AWS IAM."""
    return recorded(event, IAM_SOURCE, **shown)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any parameter
    return value if isinstance(value, bool | int) else str(value)
