"""Errors as the command line prints them."""

from hsmkms.errors import ApiError, HsmKmsError


def describe(error: HsmKmsError) -> str:
    """An error in one line: its name and its sentence. Names of the API are AWS's codes."""
    name = error.code if isinstance(error, ApiError) else type(error).__name__
    # Some errors of the API have no message on purpose; people get what the class says of itself.
    sentence = str(error) or (type(error).__doc__ or "").strip().splitlines()[0]
    return f"{name}: {' '.join(sentence.split())}"
