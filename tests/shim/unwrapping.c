/* A token that unwraps OAEP with SHA-256, and one that reports the lengths of what it unwrapped.
 *
 * Both see the material in this process, which no real token would allow: it is how SoftHSM is made to play them. */
#include <signal.h>
#include <string.h>

#include "shim.h"

enum { HASH_BYTES = 32, MOST_BYTES = 8192 };

static CK_ULONG read_attribute(CK_ULONG session, CK_ULONG object, CK_ULONG type, CK_BYTE *out, CK_ULONG room)
{
    CK_ATTRIBUTE asked = {type, out, room};
    return real->C_GetAttributeValue(session, object, &asked, 1) == CKR_OK ? asked.ulValueLen : 0;
}

/* -- OAEP with SHA-256 (RFC 8017, section 7.1.2), hashed by the token behind ------------------------------------- */

static CK_RV mask(CK_ULONG session, CK_BYTE *seed, CK_ULONG seed_len, CK_BYTE *target, CK_ULONG target_len)
{
    CK_MECHANISM sha_256 = {CKM_SHA256, NULL, 0};
    CK_BYTE input[1024 + 4], hash[HASH_BYTES];
    memcpy(input, seed, seed_len);
    for (CK_ULONG at = 0, counter = 0; at < target_len; at += HASH_BYTES, counter++) {
        CK_ULONG hash_len = HASH_BYTES;
        for (int byte = 0; byte < 4; byte++)
            input[seed_len + byte] = (CK_BYTE)(counter >> (24 - 8 * byte));
        CK_RV rv = real->C_DigestInit(session, &sha_256);
        if (rv == CKR_OK)
            rv = real->C_Digest(session, input, seed_len + 4, hash, &hash_len);
        if (rv != CKR_OK)
            return rv;
        for (CK_ULONG each = 0; each < HASH_BYTES && at + each < target_len; each++)
            target[at + each] ^= hash[each];
    }
    return CKR_OK;
}

/* The SHA-256 of an empty label. */
static const CK_BYTE EMPTY[HASH_BYTES] = {
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
};

/* Remove the padding of an RSA block in place; where the message begins, or 0. */
static CK_ULONG unpad(CK_ULONG session, CK_BYTE *block, CK_ULONG size)
{
    CK_BYTE *seed = block + 1, *data = seed + HASH_BYTES;
    CK_ULONG data_len = size - 1 - HASH_BYTES, at = HASH_BYTES;
    if (mask(session, data, data_len, seed, HASH_BYTES) != CKR_OK ||
        mask(session, seed, HASH_BYTES, data, data_len) != CKR_OK)
        return 0;
    while (at < data_len && data[at] == 0)
        at++;
    if (block[0] != 0 || memcmp(data, EMPTY, HASH_BYTES) != 0 || at == data_len || data[at] != 1)
        return 0;
    return (CK_ULONG)(data - block) + at + 1;
}

static CK_RV encrypt_again(CK_ULONG session, CK_ULONG key, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out,
                           CK_ULONG *out_len)
{
    CK_RSA_PKCS_OAEP_PARAMS sha_1 = {CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0};
    CK_MECHANISM oaep = {CKM_RSA_PKCS_OAEP, &sha_1, sizeof sha_1};
    CK_ULONG class = CKO_PUBLIC_KEY, type = CKK_RSA, public = 0;
    CK_BYTE modulus[1024], exponent[16], yes = 1, no = 0;
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_TOKEN, &no, 1},
        {CKA_PRIVATE, &no, 1},
        {CKA_ENCRYPT, &yes, 1},
        {CKA_MODULUS, modulus, read_attribute(session, key, CKA_MODULUS, modulus, sizeof modulus)},
        {CKA_PUBLIC_EXPONENT, exponent, read_attribute(session, key, CKA_PUBLIC_EXPONENT, exponent, sizeof exponent)},
    };
    CK_RV rv = real->C_CreateObject(session, template, sizeof template / sizeof *template, &public);
    if (rv != CKR_OK)
        return rv;
    rv = real->C_EncryptInit(session, &oaep, public);
    if (rv == CKR_OK)
        rv = real->C_Encrypt(session, in, in_len, out, out_len);
    real->C_DestroyObject(session, public);
    return rv;
}

/* An RSA block with SHA-256 becomes one with SHA-1, which SoftHSM can unwrap. */
static CK_RV to_sha_1(CK_ULONG session, CK_ULONG key, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    CK_MECHANISM raw = {CKM_RSA_X_509, NULL, 0};
    CK_BYTE block[1024];
    CK_ULONG size = sizeof block, start = 0;
    CK_RV rv = real->C_DecryptInit(session, &raw, key);
    if (rv != CKR_OK)
        return rv;
    if (real->C_Decrypt(session, in, in_len, block, &size) == CKR_OK && size == in_len)
        start = unpad(session, block, size);
    return start == 0 ? CKR_WRAPPED_KEY_INVALID
                      : encrypt_again(session, key, block + start, size - start, out, out_len);
}

/* -- honest lengths: SoftHSM reports them of objects that were created ------------------------------------------- */

static CK_RV open_copy(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG by, CK_BYTE *in, CK_ULONG in_len,
                       CK_BYTE *value, CK_ULONG *value_len)
{
    CK_ULONG class = CKO_SECRET_KEY, type = CKK_GENERIC_SECRET, copy = 0;
    CK_BYTE yes = 1, no = 0;
    CK_ATTRIBUTE readable[] = {
        {CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_TOKEN, &no, 1},
        {CKA_SENSITIVE, &no, 1},           {CKA_EXTRACTABLE, &yes, 1},
    };
    CK_RV rv = real->C_UnwrapKey(session, mechanism, by, in, in_len, readable, 5, &copy);
    if (rv != CKR_OK)
        return rv;
    *value_len = read_attribute(session, copy, CKA_VALUE, value, MOST_BYTES);
    return real->C_DestroyObject(session, copy);
}

static CK_RV unwrap_honestly(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG by, CK_BYTE *in, CK_ULONG in_len,
                             struct shaped *shaped, CK_ULONG *made)
{
    CK_BYTE value[MOST_BYTES];
    CK_ULONG value_len = 0;
    CK_RV rv = open_copy(session, mechanism, by, in, in_len, value, &value_len);
    if (rv != CKR_OK)
        return rv;
    if (shaped->count == MOST_ATTRIBUTES)
        return CKR_GENERAL_ERROR;
    shaped->attributes[shaped->count++] = (CK_ATTRIBUTE){CKA_VALUE, value, value_len};
    return real->C_CreateObject(session, shaped->attributes, shaped->count, made);
}

/* -- C_UnwrapKey ----------------------------------------------------------------------------------------------- */

static int is_oaep_sha_256(const CK_MECHANISM *mechanism)
{
    const CK_RSA_PKCS_OAEP_PARAMS *given = mechanism->pParameter;
    return mechanism->mechanism == CKM_RSA_PKCS_OAEP && given->hashAlg == CKM_SHA256 &&
           given->mgf == CKG_MGF1_SHA256 && given->ulSourceDataLen == 0;
}

CK_RV play_C_UnwrapKey(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG by, CK_BYTE *in, CK_ULONG in_len,
                       CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG *made)
{
    CK_RSA_PKCS_OAEP_PARAMS sha_1 = {CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0};
    CK_MECHANISM oaep = {CKM_RSA_PKCS_OAEP, &sha_1, sizeof sha_1};
    CK_BYTE block[1024];
    CK_ULONG block_len = sizeof block;
    struct shaped shaped;
    if (is_hidden(mechanism->mechanism))
        return CKR_MECHANISM_INVALID;
    CK_RV rv = shape(template, count, &shaped);
    if (rv == CKR_OK && control()->oaep_sha_256 && is_oaep_sha_256(mechanism)) {
        rv = to_sha_1(session, by, in, in_len, block, &block_len);
        mechanism = &oaep;
        in = block;
        in_len = block_len;
    }
    if (rv != CKR_OK)
        return rv;
    ignore_unwrapped(&shaped);
    CK_MECHANISM numbered = *mechanism;
    numbered.mechanism = number_here(mechanism->mechanism);
    mechanism = &numbered;
    CK_ATTRIBUTE *class = attribute_of(&shaped, CKA_CLASS);
    if (control()->honest_lengths && class != NULL && *(CK_ULONG *)class->pValue == CKO_SECRET_KEY)
        return unwrap_honestly(session, mechanism, by, in, in_len, &shaped, made);
    rv = real->C_UnwrapKey(session, mechanism, by, in, in_len, shaped.attributes, shaped.count, made);
    if (rv == CKR_GENERAL_ERROR && mechanism->mechanism == CKM_RSA_PKCS_OAEP && control()->crash_if_refused)
        raise(SIGSEGV);
    return rv;
}
