/* The declarations of PKCS #11 2.40 that the shim needs, and no others.
 *
 * FUNCTIONS is the whole CK_FUNCTION_LIST in its order: F(name, parameters, arguments) for each function.
 * Source: PKCS #11 Cryptographic Token Interface Base Specification 2.40, sections 3 and 5. */
#ifndef SHIM_CRYPTOKI_H
#define SHIM_CRYPTOKI_H

typedef unsigned char CK_BYTE;
typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;

typedef struct {
    CK_ULONG type;
    void *pValue;
    CK_ULONG ulValueLen;
} CK_ATTRIBUTE;

typedef struct {
    CK_ULONG mechanism;
    void *pParameter;
    CK_ULONG ulParameterLen;
} CK_MECHANISM;

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

typedef struct {
    CK_BYTE major, minor;
} CK_VERSION;

typedef struct {
    CK_BYTE label[32], manufacturerID[32], model[16], serialNumber[16];
    CK_ULONG flags, ulMaxSessionCount, ulSessionCount, ulMaxRwSessionCount, ulRwSessionCount;
    CK_ULONG ulMaxPinLen, ulMinPinLen;
    CK_ULONG ulTotalPublicMemory, ulFreePublicMemory, ulTotalPrivateMemory, ulFreePrivateMemory;
    CK_VERSION hardwareVersion, firmwareVersion;
    CK_BYTE utcTime[16];
} CK_TOKEN_INFO;

enum {
    CKR_OK = 0x00,
    CKR_GENERAL_ERROR = 0x05,
    CKR_ARGUMENTS_BAD = 0x07,
    CKR_ATTRIBUTE_TYPE_INVALID = 0x12,
    CKR_ATTRIBUTE_VALUE_INVALID = 0x13,
    CKR_MECHANISM_INVALID = 0x70,
    CKR_MECHANISM_PARAM_INVALID = 0x71,
    CKR_FUNCTION_NOT_SUPPORTED = 0x54,
    CKR_OPERATION_ACTIVE = 0x90,
    CKR_OPERATION_NOT_INITIALIZED = 0x91,
    CKR_PIN_INCORRECT = 0xA0,
    CKR_PIN_LEN_RANGE = 0xA2,
    CKR_PIN_LOCKED = 0xA4,
    CKR_SESSION_COUNT = 0xB1,
    CKR_SESSION_HANDLE_INVALID = 0xB3,
    CKR_WRAPPED_KEY_INVALID = 0x110,
    CKR_CURVE_NOT_SUPPORTED = 0x140,
    CKR_DATA_LEN_RANGE = 0x21,
    CKR_BUFFER_TOO_SMALL = 0x150,
    CKR_CRYPTOKI_NOT_INITIALIZED = 0x190,

    CKO_DATA = 0,
    CKO_PUBLIC_KEY = 2,
    CKO_PRIVATE_KEY = 3,
    CKO_SECRET_KEY = 4,

    CKK_RSA = 0,
    CKK_GENERIC_SECRET = 0x10,

    CKA_CLASS = 0x00,
    CKA_TOKEN = 0x01,
    CKA_PRIVATE = 0x02,
    CKA_LABEL = 0x03,
    CKA_VALUE = 0x11,
    CKA_KEY_TYPE = 0x100,
    CKA_SENSITIVE = 0x103,
    CKA_ENCRYPT = 0x104,
    CKA_DECRYPT = 0x105,
    CKA_UNWRAP = 0x107,
    CKA_MODULUS = 0x120,
    CKA_PUBLIC_EXPONENT = 0x122,
    CKA_VALUE_LEN = 0x161,
    CKA_EXTRACTABLE = 0x162,
    CKA_LOCAL = 0x163,
    CKA_EC_PARAMS = 0x180,

    CKM_RSA_X_509 = 0x03,
    CKM_RSA_PKCS_OAEP = 0x09,
    CKM_SHA_1 = 0x220,
    CKM_SHA256 = 0x250,
    CKM_AES_GCM = 0x1087,
    CKM_AES_KEY_WRAP_PAD = 0x210A,
    CKM_AES_KEY_WRAP_KWP = 0x210B,

    CKG_NO_GENERATE = 0,
    CKG_GENERATE_RANDOM = 3,
    CKG_MGF1_SHA1 = 1,
    CKG_MGF1_SHA256 = 2,
    CKZ_DATA_SPECIFIED = 1,

    CKU_USER = 1,
    CKF_USER_PIN_COUNT_LOW = 0x10000,
    CKF_USER_PIN_FINAL_TRY = 0x20000,
    CKF_USER_PIN_LOCKED = 0x40000,
};

typedef struct CK_FUNCTION_LIST CK_FUNCTION_LIST;

#define DATA_IN_OUT (CK_ULONG session, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
#define DATA_IN_OUT_ARGS (session, in, in_len, out, out_len)
#define DATA_IN (CK_ULONG session, CK_BYTE *in, CK_ULONG in_len)
#define DATA_OUT (CK_ULONG session, CK_BYTE *out, CK_ULONG *out_len)
#define WITH_KEY (CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key)
#define TEMPLATE CK_ATTRIBUTE *template, CK_ULONG count

#define FUNCTIONS(F) \
    F(C_Initialize, (void *arguments), (arguments)) \
    F(C_Finalize, (void *reserved), (reserved)) \
    F(C_GetInfo, (void *info), (info)) \
    F(C_GetFunctionList, (CK_FUNCTION_LIST **list), (list)) \
    F(C_GetSlotList, (CK_BYTE present, CK_ULONG *slots, CK_ULONG *count), (present, slots, count)) \
    F(C_GetSlotInfo, (CK_ULONG slot, void *info), (slot, info)) \
    F(C_GetTokenInfo, (CK_ULONG slot, CK_TOKEN_INFO *info), (slot, info)) \
    F(C_GetMechanismList, (CK_ULONG slot, CK_ULONG *list, CK_ULONG *count), (slot, list, count)) \
    F(C_GetMechanismInfo, (CK_ULONG slot, CK_ULONG type, void *info), (slot, type, info)) \
    F(C_InitToken, (CK_ULONG slot, CK_BYTE *pin, CK_ULONG pin_len, CK_BYTE *label), (slot, pin, pin_len, label)) \
    F(C_InitPIN, (CK_ULONG session, CK_BYTE *pin, CK_ULONG pin_len), (session, pin, pin_len)) \
    F(C_SetPIN, (CK_ULONG session, CK_BYTE *old, CK_ULONG old_len, CK_BYTE *new, CK_ULONG new_len), \
      (session, old, old_len, new, new_len)) \
    F(C_OpenSession, (CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session), \
      (slot, flags, application, notify, session)) \
    F(C_CloseSession, (CK_ULONG session), (session)) \
    F(C_CloseAllSessions, (CK_ULONG slot), (slot)) \
    F(C_GetSessionInfo, (CK_ULONG session, void *info), (session, info)) \
    F(C_GetOperationState, DATA_OUT, (session, out, out_len)) \
    F(C_SetOperationState, (CK_ULONG session, CK_BYTE *in, CK_ULONG in_len, CK_ULONG key, CK_ULONG mac_key), \
      (session, in, in_len, key, mac_key)) \
    F(C_Login, (CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG pin_len), (session, user, pin, pin_len)) \
    F(C_Logout, (CK_ULONG session), (session)) \
    F(C_CreateObject, (CK_ULONG session, TEMPLATE, CK_ULONG *made), (session, template, count, made)) \
    F(C_CopyObject, (CK_ULONG session, CK_ULONG object, TEMPLATE, CK_ULONG *made), \
      (session, object, template, count, made)) \
    F(C_DestroyObject, (CK_ULONG session, CK_ULONG object), (session, object)) \
    F(C_GetObjectSize, (CK_ULONG session, CK_ULONG object, CK_ULONG *size), (session, object, size)) \
    F(C_GetAttributeValue, (CK_ULONG session, CK_ULONG object, TEMPLATE), (session, object, template, count)) \
    F(C_SetAttributeValue, (CK_ULONG session, CK_ULONG object, TEMPLATE), (session, object, template, count)) \
    F(C_FindObjectsInit, (CK_ULONG session, TEMPLATE), (session, template, count)) \
    F(C_FindObjects, (CK_ULONG session, CK_ULONG *found, CK_ULONG room, CK_ULONG *count), \
      (session, found, room, count)) \
    F(C_FindObjectsFinal, (CK_ULONG session), (session)) \
    F(C_EncryptInit, WITH_KEY, (session, mechanism, key)) \
    F(C_Encrypt, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_EncryptUpdate, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_EncryptFinal, DATA_OUT, (session, out, out_len)) \
    F(C_DecryptInit, WITH_KEY, (session, mechanism, key)) \
    F(C_Decrypt, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_DecryptUpdate, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_DecryptFinal, DATA_OUT, (session, out, out_len)) \
    F(C_DigestInit, (CK_ULONG session, CK_MECHANISM *mechanism), (session, mechanism)) \
    F(C_Digest, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_DigestUpdate, DATA_IN, (session, in, in_len)) \
    F(C_DigestKey, (CK_ULONG session, CK_ULONG key), (session, key)) \
    F(C_DigestFinal, DATA_OUT, (session, out, out_len)) \
    F(C_SignInit, WITH_KEY, (session, mechanism, key)) \
    F(C_Sign, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_SignUpdate, DATA_IN, (session, in, in_len)) \
    F(C_SignFinal, DATA_OUT, (session, out, out_len)) \
    F(C_SignRecoverInit, WITH_KEY, (session, mechanism, key)) \
    F(C_SignRecover, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_VerifyInit, WITH_KEY, (session, mechanism, key)) \
    F(C_Verify, (CK_ULONG session, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *signature, CK_ULONG signature_len), \
      (session, in, in_len, signature, signature_len)) \
    F(C_VerifyUpdate, DATA_IN, (session, in, in_len)) \
    F(C_VerifyFinal, DATA_IN, (session, in, in_len)) \
    F(C_VerifyRecoverInit, WITH_KEY, (session, mechanism, key)) \
    F(C_VerifyRecover, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_DigestEncryptUpdate, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_DecryptDigestUpdate, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_SignEncryptUpdate, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_DecryptVerifyUpdate, DATA_IN_OUT, DATA_IN_OUT_ARGS) \
    F(C_GenerateKey, (CK_ULONG session, CK_MECHANISM *mechanism, TEMPLATE, CK_ULONG *made), \
      (session, mechanism, template, count, made)) \
    F(C_GenerateKeyPair, \
      (CK_ULONG session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *of_public, CK_ULONG public_count, \
       CK_ATTRIBUTE *of_private, CK_ULONG private_count, CK_ULONG *public_key, CK_ULONG *private_key), \
      (session, mechanism, of_public, public_count, of_private, private_count, public_key, private_key)) \
    F(C_WrapKey, \
      (CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG by, CK_ULONG key, CK_BYTE *out, CK_ULONG *out_len), \
      (session, mechanism, by, key, out, out_len)) \
    F(C_UnwrapKey, \
      (CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG by, CK_BYTE *in, CK_ULONG in_len, TEMPLATE, \
       CK_ULONG *made), \
      (session, mechanism, by, in, in_len, template, count, made)) \
    F(C_DeriveKey, (CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG base, TEMPLATE, CK_ULONG *made), \
      (session, mechanism, base, template, count, made)) \
    F(C_SeedRandom, DATA_IN, (session, in, in_len)) \
    F(C_GenerateRandom, (CK_ULONG session, CK_BYTE *out, CK_ULONG length), (session, out, length)) \
    F(C_GetFunctionStatus, (CK_ULONG session), (session)) \
    F(C_CancelFunction, (CK_ULONG session), (session)) \
    F(C_WaitForSlotEvent, (CK_ULONG flags, CK_ULONG *slot, void *reserved), (flags, slot, reserved))

struct CK_FUNCTION_LIST {
    CK_VERSION version;
#define MEMBER(name, parameters, arguments) CK_RV(*name) parameters;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

#endif
