"""Write ``hsmkms/hsm/calls/_declared.py``: the declarations of PKCS#11 in C, parsed by cffi (out-of-line ABI mode).

Parsing them takes 0.2 s, which each command would pay; the written module is read in 2 ms, and nothing is compiled at
installation. Run it after a change here; ``tests/hsm/test_hsm_calls.py`` holds both together.

Source: PKCS #11 Base Specification 2.40, sections 3 and 5, 3.0, section 5.9 (messages), and 3.2, sections 5.18.8 and
5.18.9 (key encapsulation); ``pkcs11t.h`` and ``pkcs11f.h``.
"""

import sys
from pathlib import Path
from typing import Final

from cffi import FFI

_TYPES: Final = """
typedef unsigned char CK_BYTE;
typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;
typedef struct { CK_BYTE major, minor; } CK_VERSION;
typedef struct { CK_ULONG type; void *pValue; CK_ULONG ulValueLen; } CK_ATTRIBUTE;
typedef struct { CK_ULONG mechanism; void *pParameter; CK_ULONG ulParameterLen; } CK_MECHANISM;
typedef struct {
    void *CreateMutex, *DestroyMutex, *LockMutex, *UnlockMutex;
    CK_ULONG flags;
    void *pReserved;
} CK_C_INITIALIZE_ARGS;
typedef struct {
    CK_BYTE label[32], manufacturerID[32], model[16], serialNumber[16];
    CK_ULONG flags, ulMaxSessionCount, ulSessionCount, ulMaxRwSessionCount, ulRwSessionCount;
    CK_ULONG ulMaxPinLen, ulMinPinLen;
    CK_ULONG ulTotalPublicMemory, ulFreePublicMemory, ulTotalPrivateMemory, ulFreePrivateMemory;
    CK_VERSION hardwareVersion, firmwareVersion;
    CK_BYTE utcTime[16];
} CK_TOKEN_INFO;
typedef struct { CK_ULONG ulMinKeySize, ulMaxKeySize, flags; } CK_MECHANISM_INFO;
typedef struct { CK_ULONG slotID, state, flags, ulDeviceError; } CK_SESSION_INFO;
typedef struct {
    CK_BYTE *pIv;
    CK_ULONG ulIvLen, ulIvBits;
    CK_BYTE *pAAD;
    CK_ULONG ulAADLen, ulTagBits;
} CK_GCM_PARAMS;
typedef struct {
    CK_BYTE *pIv;
    CK_ULONG ulIvLen, ulIvFixedBits, ivGenerator;
    CK_BYTE *pTag;
    CK_ULONG ulTagBits;
} CK_GCM_MESSAGE_PARAMS;
typedef struct {
    CK_ULONG hashAlg, mgf, source;
    void *pSourceData;
    CK_ULONG ulSourceDataLen;
} CK_RSA_PKCS_OAEP_PARAMS;
typedef struct { CK_ULONG hashAlg, mgf, sLen; } CK_RSA_PKCS_PSS_PARAMS;
typedef struct { CK_BYTE phFlag; CK_ULONG ulContextDataLen; CK_BYTE *pContextData; } CK_EDDSA_PARAMS;
typedef struct {
    CK_ULONG kdf, ulSharedDataLen;
    CK_BYTE *pSharedData;
    CK_ULONG ulPublicDataLen;
    CK_BYTE *pPublicData;
} CK_ECDH1_DERIVE_PARAMS;
"""

_DATA: Final = "(CK_ULONG session, CK_BYTE *data, CK_ULONG data_length, CK_BYTE *out, CK_ULONG *out_length)"
_WITH_KEY: Final = "(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key)"
_OF_OBJECT: Final = "(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count)"

_UNUSED: Final = ""
"""Declared as a plain pointer: only its place in the list matters."""

FUNCTIONS: Final = {
    "C_Initialize": "(CK_C_INITIALIZE_ARGS *arguments)",
    "C_Finalize": "(void *reserved)",
    "C_GetInfo": _UNUSED,
    "C_GetFunctionList": _UNUSED,
    "C_GetSlotList": _UNUSED,
    "C_GetSlotInfo": _UNUSED,
    "C_GetTokenInfo": "(CK_ULONG slot, CK_TOKEN_INFO *info)",
    "C_GetMechanismList": _UNUSED,
    "C_GetMechanismInfo": "(CK_ULONG slot, CK_ULONG mechanism, CK_MECHANISM_INFO *info)",
    "C_InitToken": "(CK_ULONG slot, CK_BYTE *pin, CK_ULONG pin_length, CK_BYTE *label)",
    "C_InitPIN": _UNUSED,
    "C_SetPIN": _UNUSED,
    "C_OpenSession": _UNUSED,
    "C_CloseSession": "(CK_ULONG session)",
    "C_CloseAllSessions": _UNUSED,
    "C_GetSessionInfo": "(CK_ULONG session, CK_SESSION_INFO *info)",
    "C_GetOperationState": _UNUSED,
    "C_SetOperationState": _UNUSED,
    "C_Login": _UNUSED,
    "C_Logout": _UNUSED,
    "C_CreateObject": "(CK_ULONG session, CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG *object)",
    "C_CopyObject": ("(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG *copy)"),
    "C_DestroyObject": "(CK_ULONG session, CK_ULONG object)",
    "C_GetObjectSize": _UNUSED,
    "C_GetAttributeValue": _OF_OBJECT,
    "C_SetAttributeValue": _OF_OBJECT,
    "C_FindObjectsInit": "(CK_ULONG session, CK_ATTRIBUTE *template, CK_ULONG count)",
    "C_FindObjects": "(CK_ULONG session, CK_ULONG *objects, CK_ULONG room, CK_ULONG *count)",
    "C_FindObjectsFinal": "(CK_ULONG session)",
    "C_EncryptInit": _WITH_KEY,
    "C_Encrypt": _DATA,
    "C_EncryptUpdate": _UNUSED,
    "C_EncryptFinal": _UNUSED,
    "C_DecryptInit": _WITH_KEY,
    "C_Decrypt": _DATA,
    "C_DecryptUpdate": _UNUSED,
    "C_DecryptFinal": _UNUSED,
    "C_DigestInit": _UNUSED,
    "C_Digest": _UNUSED,
    "C_DigestUpdate": _UNUSED,
    "C_DigestKey": _UNUSED,
    "C_DigestFinal": _UNUSED,
    "C_SignInit": _WITH_KEY,
    "C_Sign": _DATA,
    "C_SignUpdate": _UNUSED,
    "C_SignFinal": _UNUSED,
    "C_SignRecoverInit": _UNUSED,
    "C_SignRecover": _UNUSED,
    "C_VerifyInit": _WITH_KEY,
    "C_Verify": "(CK_ULONG session, CK_BYTE *data, CK_ULONG data_length, CK_BYTE *signature, CK_ULONG length)",
    "C_VerifyUpdate": _UNUSED,
    "C_VerifyFinal": _UNUSED,
    "C_VerifyRecoverInit": _UNUSED,
    "C_VerifyRecover": _UNUSED,
    "C_DigestEncryptUpdate": _UNUSED,
    "C_DecryptDigestUpdate": _UNUSED,
    "C_SignEncryptUpdate": _UNUSED,
    "C_DecryptVerifyUpdate": _UNUSED,
    "C_GenerateKey": (
        "(CK_ULONG session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG *key)"
    ),
    "C_GenerateKeyPair": (
        "(CK_ULONG session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *of_public, CK_ULONG public_count,"
        " CK_ATTRIBUTE *of_private, CK_ULONG private_count, CK_ULONG *public_key, CK_ULONG *private_key)"
    ),
    "C_WrapKey": (
        "(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG wrapping_key, CK_ULONG key,"
        " CK_BYTE *out, CK_ULONG *out_length)"
    ),
    "C_UnwrapKey": (
        "(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG unwrapping_key, CK_BYTE *wrapped, CK_ULONG length,"
        " CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG *key)"
    ),
    "C_DeriveKey": (
        "(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG base_key, CK_ATTRIBUTE *template, CK_ULONG count,"
        " CK_ULONG *key)"
    ),
    "C_SeedRandom": _UNUSED,
    "C_GenerateRandom": "(CK_ULONG session, CK_BYTE *out, CK_ULONG length)",
    "C_GetFunctionStatus": _UNUSED,
    "C_CancelFunction": _UNUSED,
    "C_WaitForSlotEvent": _UNUSED,
}
"""CK_FUNCTION_LIST in its order."""

FUNCTIONS_3_0: Final = {
    "C_GetInterfaceList": _UNUSED,
    "C_GetInterface": _UNUSED,
    "C_LoginUser": _UNUSED,
    "C_SessionCancel": _UNUSED,
    "C_MessageEncryptInit": _WITH_KEY,
    "C_EncryptMessage": (
        "(CK_ULONG session, void *parameter, CK_ULONG parameter_length, CK_BYTE *aad, CK_ULONG aad_length,"
        " CK_BYTE *data, CK_ULONG data_length, CK_BYTE *out, CK_ULONG *out_length)"
    ),
    "C_EncryptMessageBegin": _UNUSED,
    "C_EncryptMessageNext": _UNUSED,
    "C_MessageEncryptFinal": "(CK_ULONG session)",
}
"""What CK_FUNCTION_LIST_3_0 has after those, up to the last function used here."""

FUNCTIONS_3_2: Final = {
    "C_MessageDecryptInit": _UNUSED,
    "C_DecryptMessage": _UNUSED,
    "C_DecryptMessageBegin": _UNUSED,
    "C_DecryptMessageNext": _UNUSED,
    "C_MessageDecryptFinal": _UNUSED,
    "C_MessageSignInit": _UNUSED,
    "C_SignMessage": _UNUSED,
    "C_SignMessageBegin": _UNUSED,
    "C_SignMessageNext": _UNUSED,
    "C_MessageSignFinal": _UNUSED,
    "C_MessageVerifyInit": _UNUSED,
    "C_VerifyMessage": _UNUSED,
    "C_VerifyMessageBegin": _UNUSED,
    "C_VerifyMessageNext": _UNUSED,
    "C_MessageVerifyFinal": _UNUSED,
    "C_EncapsulateKey": (
        "(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG public_key, CK_ATTRIBUTE *template, CK_ULONG count,"
        " CK_BYTE *ciphertext, CK_ULONG *ciphertext_length, CK_ULONG *key)"
    ),
    "C_DecapsulateKey": (
        "(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG private_key, CK_ATTRIBUTE *template, CK_ULONG count,"
        " CK_BYTE *ciphertext, CK_ULONG ciphertext_length, CK_ULONG *key)"
    ),
}
"""The rest of CK_FUNCTION_LIST_3_0, and what CK_FUNCTION_LIST_3_2 has after it, up to the last function used here."""


def _function_list(name: str, functions: dict[str, str]) -> str:
    members = (
        f"CK_RV (*{function}){parameters};" if parameters else f"void *{function};"
        for function, parameters in functions.items()
    )
    return f"typedef struct {{ CK_VERSION version; {' '.join(members)} }} {name};\n"


DECLARATIONS: Final = (
    _TYPES
    + _function_list("CK_FUNCTION_LIST", FUNCTIONS)
    + _function_list("CK_FUNCTION_LIST_3_0", {**FUNCTIONS, **FUNCTIONS_3_0})
    + _function_list("CK_FUNCTION_LIST_3_2", {**FUNCTIONS, **FUNCTIONS_3_0, **FUNCTIONS_3_2})
    + "CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list);"
)
WRITTEN: Final = Path(__file__).parent.parent / "hsmkms/hsm/calls/_declared.py"


def write(file: Path) -> None:
    """Write the module."""
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source("hsmkms.hsm.calls._declared", None)
    ffi.emit_python_code(str(file))


if __name__ == "__main__":
    write(WRITTEN)
    sys.stdout.write(f"{WRITTEN}\n")
