"""Format errors for the command line."""

from hsmkms.errors import ApiError, HsmKmsError


def describe(error: HsmKmsError) -> str:
    """Format an error as one line: its name and its message.

    What the endpoint would answer is named by its AWS code: API errors, and what the token says about a request's data.
    Other errors are the operator's, and are named by their classes.
    """
    name = error.code if isinstance(error, ApiError) or error.fault == "client" else type(error).__name__
    # Some API errors have no message on purpose; people see the docstring of the class instead.
    sentence = str(error) or (type(error).__doc__ or "").strip().splitlines()[0]
    return f"{name}: {' '.join(sentence.split())}"
