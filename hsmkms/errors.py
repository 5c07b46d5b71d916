"""Every error that hsmkms raises on purpose, in one tree.

::

    HsmKmsError                     code, fault; str() is the sentence for the user
    ├── ApiError                    what an API caller can cause or must handle; the leaf's name is AWS's code
    │   ├── AlreadyExistsException
    │   ├── ConflictException
    │   ├── CustomKeyStoreNotFoundException
    │   ├── DisabledException
    │   ├── DryRunOperationException
    │   ├── ExpiredImportTokenException
    │   ├── IncorrectKeyException
    │   ├── IncorrectKeyMaterialException
    │   ├── InvalidAliasNameException
    │   ├── InvalidArnException
    │   ├── InvalidCiphertextException
    │   ├── InvalidGrantIdException
    │   ├── InvalidGrantTokenException
    │   ├── InvalidImportTokenException
    │   ├── InvalidKeyUsageException
    │   ├── InvalidMarkerException
    │   ├── KMSInvalidMacException
    │   ├── KMSInvalidSignatureException
    │   ├── KMSInvalidStateException
    │   ├── LimitExceededException
    │   ├── MalformedPolicyDocumentException
    │   ├── NotFoundException
    │   ├── TagException
    │   ├── UnsupportedOperationException
    │   ├── AccessDeniedException
    │   ├── IncompleteSignatureException
    │   ├── InvalidSignatureException
    │   ├── MissingAuthenticationTokenException
    │   ├── NotAuthorizedException
    │   ├── UnknownOperationException
    │   ├── UnrecognizedClientException
    │   ├── ThrottlingException
    │   ├── ValidationException
    │   ├── SerializationException
    │   ├── DependencyTimeoutException
    │   ├── KeyUnavailableException
    │   └── KMSInternalException
    ├── SetupError                  the operator must act: configuration, token or database
    │   ├── ConfigurationError      a setting is missing or wrong
    │   ├── ModuleError             the PKCS#11 module cannot be loaded or is shared in an unsafe way
    │   ├── TokenNotFoundError      no token, or more than one, fits the configured choice
    │   ├── TokenUnfitError         the token cannot do what hsmkms needs, or ignored an attribute
    │   ├── PinError                there is no PIN, or the token refused it, or it must not be tried
    │   ├── BindingError            database and token do not belong together
    │   │   └── CloneError          the token is a copy of the one that the database belongs to
    │   ├── MigrationError          the database is older or newer than this program
    │   └── StoreError              the database is missing, read-only, full, damaged or locked
    ├── TokenError                  a call to the token failed (see hsmkms/hsm/faults.py)
    │   ├── TokenUnavailableError   gone, failing, or too slow
    │   │   ├── WrongTokenError     another token answers in its place
    │   │   │   └── HiddenObjectsError  the objects of the right one cannot be seen, or it was initialised again
    │   │   └── SessionLostError    this session is dead; a fresh one may work
    │   ├── ObjectLostError         this object handle is dead; a search may find the object again
    │   ├── TokenFullError          no room for another object
    │   ├── RejectedDataError       the token rejected the data, signature or key material
    │   └── RejectedMaterialError   imported key material does not have the length that the key needs
    └── MisuseError                 a bug of the calling program: never caused by a request
        ├── ForkedProcessError      an object of the parent process was used after a fork
        ├── ClosedError             an object was used after close()
        └── PermitError             a device procedure was called without a fitting permit
            └── PermitExpiredError  the request waited too long for the token, or key material expired meanwhile

No HTTP status here: the edge chooses it from ``fault``. Names and meaning of the API leaves: the exception
shapes of botocore's KMS model, and the common errors of the AWS KMS API Reference.
"""

from typing import ClassVar, Literal

Fault = Literal["client", "server"]


class HsmKmsError(Exception):
    """Base of all errors of this package.

    ``code`` is what an AWS client sees; ``fault`` says on whose side the cause lies.
    """

    code: ClassVar[str] = "KMSInternalException"
    fault: ClassVar[Fault] = "server"


class ApiError(HsmKmsError):
    """An error of the KMS API; the class name of each leaf is its AWS code.

    ``silent``: AWS sends this error without a ``message`` member. The sentence is for the command line and the log.
    """

    silent: bool = False

    def __init_subclass__(cls) -> None:
        cls.code = cls.__name__
        super().__init_subclass__()


class AlreadyExistsException(ApiError):
    """The name is taken."""

    fault = "client"


class ConflictException(ApiError):
    """Another operation on the key is under way."""

    fault = "client"


class CustomKeyStoreNotFoundException(ApiError):
    """No custom key store has that id or name; hsmkms has none."""

    fault = "client"


class DisabledException(ApiError):
    """The KMS key is not enabled."""

    fault = "client"


class DryRunOperationException(ApiError):
    """The request would have succeeded; DryRun was set."""

    fault = "client"


class ExpiredImportTokenException(ApiError):
    """The import token is older than 24 hours."""

    fault = "client"


class IncorrectKeyException(ApiError):
    """The named KMS key is not the one of the ciphertext."""

    fault = "client"


class IncorrectKeyMaterialException(ApiError):
    """The key material does not fit this KMS key."""

    fault = "client"


class InvalidAliasNameException(ApiError):
    """Users may not choose this alias name."""

    fault = "client"


class InvalidArnException(ApiError):
    """The ARN cannot be read."""

    fault = "client"


class InvalidCiphertextException(ApiError):
    """The ciphertext cannot be decrypted: check it and the encryption context (one error for every cause)."""

    fault = "client"
    silent = True


class InvalidGrantIdException(ApiError):
    """No such grant."""

    fault = "client"


class InvalidGrantTokenException(ApiError):
    """No such grant token."""

    fault = "client"


class InvalidImportTokenException(ApiError):
    """The import token is damaged or belongs to another KMS key."""

    fault = "client"


class InvalidKeyUsageException(ApiError):
    """The KMS key cannot do this kind of operation."""

    fault = "client"


class InvalidMarkerException(ApiError):
    """The pagination marker did not come from this installation."""

    fault = "client"


class KMSInvalidMacException(ApiError):
    """The MAC does not verify."""

    fault = "client"
    silent = True


class KMSInvalidSignatureException(ApiError):
    """The signature does not verify."""

    fault = "client"
    silent = True


class KMSInvalidStateException(ApiError):
    """The state of the KMS key does not admit the operation."""

    fault = "client"


class LimitExceededException(ApiError):
    """A quota is used up."""

    fault = "client"


class MalformedPolicyDocumentException(ApiError):
    """The key policy cannot be read."""

    fault = "client"


class NotFoundException(ApiError):
    """The named thing does not exist."""

    fault = "client"


class TagException(ApiError):
    """A tag breaks a rule."""

    fault = "client"


class UnsupportedOperationException(ApiError):
    """The operation does not apply to this key, or this token cannot do it."""

    fault = "client"


class AccessDeniedException(ApiError):
    """The caller may not do this."""

    fault = "client"


class IncompleteSignatureException(ApiError):
    """The Authorization header cannot be read."""

    fault = "client"


class InvalidSignatureException(ApiError):
    """The signature does not match the request, its time or its scope."""

    fault = "client"


class MissingAuthenticationTokenException(ApiError):
    """The request has no signature."""

    fault = "client"


class NotAuthorizedException(ApiError):
    """No caller may do this: the name is reserved."""

    fault = "client"
    silent = True


class UnknownOperationException(ApiError):
    """There is no operation of that name."""

    fault = "client"


class UnrecognizedClientException(ApiError):
    """The access key is not one of an active user."""

    fault = "client"


class ThrottlingException(ApiError):
    """Too many requests; try again later."""

    fault = "client"


class ValidationException(ApiError):
    """A member of the request breaks a constraint."""

    fault = "client"


class SerializationException(ApiError):
    """The request cannot be read."""

    fault = "client"


class DependencyTimeoutException(ApiError):
    """The token, or the store, did not answer in time; try again."""


class KeyUnavailableException(ApiError):
    """The backing key is not on the token now."""


class KMSInternalException(ApiError):
    """The request failed for a reason that the caller cannot fix."""


def silently(error: ApiError) -> ApiError:
    """Mark one error as sent without a message, as AWS does, although others of its class have one; return it."""
    error.silent = True
    return error


class SetupError(HsmKmsError):
    """The operator must act before hsmkms can work."""


class ConfigurationError(SetupError):
    """A setting is missing or wrong."""


class ModuleError(SetupError):
    """The PKCS#11 module cannot be loaded or is shared in an unsafe way."""


class TokenNotFoundError(SetupError):
    """No token, or more than one, fits the configured choice."""


class TokenUnfitError(SetupError):
    """The token cannot do what hsmkms needs, or ignored an attribute."""

    code = "UnsupportedOperationException"


class PinError(SetupError):
    """There is no PIN, or the token refused it, or it must not be tried. API callers see the token as unavailable."""

    code = "DependencyTimeoutException"


class BindingError(SetupError):
    """The database and the token do not belong together."""


class CloneError(BindingError):
    """The token holds the installation's own key, but has another serial than the recorded one."""


class MigrationError(SetupError):
    """The database is older or newer than this program."""


class StoreError(SetupError):
    """The database is missing, read-only, full, damaged or locked."""


class TokenError(HsmKmsError):
    """A call to the token failed; ``__cause__`` holds the PKCS#11 error."""


class TokenUnavailableError(TokenError):
    """The token is gone, failing, or too slow."""

    code = "DependencyTimeoutException"


class WrongTokenError(TokenUnavailableError):
    """Another token answers: the installation's own key is not visible on it."""


class HiddenObjectsError(WrongTokenError):
    """The installation's own key is not visible on a token of the right serial: its objects are hidden.

    A token that was initialised again and kept its serial looks the same. Either counts as unavailable, not as wrong.
    """


class SessionLostError(TokenUnavailableError):
    """This session is dead; a fresh one may work."""


class ObjectLostError(TokenError):
    """This object handle is dead, or the object is not on the token."""

    code = "KeyUnavailableException"


class TokenFullError(TokenError):
    """There is no room on the token for another object."""

    code = "LimitExceededException"


class RejectedDataError(TokenError):
    """The token rejected the data, the signature or the key material."""

    code = "InvalidCiphertextException"
    fault = "client"


class RejectedMaterialError(TokenError):
    """Imported key material could be unwrapped, but does not have the length that the key needs."""

    code = "IncorrectKeyMaterialException"
    fault = "client"


class MisuseError(HsmKmsError):
    """The calling program has a bug; no request can cause this."""


class ForkedProcessError(MisuseError):
    """An object of the parent process was used after a fork; open a new Kms in the child."""


class ClosedError(MisuseError):
    """An object was used after it had been closed."""


class PermitError(MisuseError):
    """A device procedure was called without a fitting permit."""


class PermitExpiredError(PermitError):
    """The permit fitted but has expired: the request waited too long for the token, or key material expired meanwhile.

    A retry goes through admission again.
    """

    code = "DependencyTimeoutException"
