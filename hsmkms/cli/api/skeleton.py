"""Make a sample of a request or of an answer for --generate-cli-skeleton."""

from typing import Annotated, Any, get_args, get_origin, get_type_hints

from msgspec import Struct, structs

from hsmkms.model.constraints import OneOf


def sample(kind: Any) -> Any:  # noqa: ANN401 - types and JSON of many kinds
    """Return JSON of a type's form, with the API's names: "" for texts, bytes and instants, else the first word."""
    extras: tuple[Any, ...] = ()
    while get_origin(kind) is Annotated or type(None) in get_args(kind):
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            extras += tuple(more)
        else:
            kind = next(each for each in get_args(kind) if each is not type(None))
    words = next((each.words for each in extras if isinstance(each, OneOf)), None)
    if words is not None:
        return next(iter(words)).value
    if isinstance(kind, type) and issubclass(kind, Struct):
        hints = get_type_hints(kind, include_extras=True)
        return {each.encode_name: sample(hints[each.name]) for each in structs.fields(kind)}
    if get_origin(kind) is list:
        return [sample(get_args(kind)[0])]
    if get_origin(kind) is dict:
        return {"KeyName": sample(get_args(kind)[1])}
    return {bool: True, int: 0}.get(kind, "")
