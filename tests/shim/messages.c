/* A token with message-based encryption (PKCS #11 3.0, section 5.9), played by ordinary encryptions. */
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "shim.h"

enum { IV_BYTES = 12, TAG_BYTES = 16, MOST_SESSIONS = 64, MOST_BYTES = 16384 };

static struct {
    CK_ULONG session, key;
    int active;
} all[MOST_SESSIONS];
static CK_BYTE counter;
static pthread_mutex_t finding = PTHREAD_MUTEX_INITIALIZER;

static int place_of(CK_ULONG session)
{
    for (int at = 0; at < MOST_SESSIONS; at++)
        if (all[at].active && all[at].session == session)
            return at;
    return -1;
}

int message_is_active(CK_ULONG session)
{
    pthread_mutex_lock(&finding);
    int is_active = place_of(session) >= 0;
    pthread_mutex_unlock(&finding);
    return is_active;
}

CK_RV play_C_DecryptInit(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key)
{
    if (message_is_active(session))
        return CKR_OPERATION_ACTIVE;
    return is_hidden(mechanism->mechanism) ? CKR_MECHANISM_INVALID : real->C_DecryptInit(session, mechanism, key);
}

static CK_RV message_encrypt_init(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key)
{
    CK_RV rv = fault(N_C_EncryptInit, 1);
    if (rv != CKR_OK)
        return rv;
    if (mechanism->mechanism != CKM_AES_GCM)
        return CKR_MECHANISM_INVALID;
    pthread_mutex_lock(&finding);
    int free = -1;
    for (int at = 0; at < MOST_SESSIONS && free < 0; at++)
        free = all[at].active ? free : at;
    rv = place_of(session) >= 0 ? CKR_OPERATION_ACTIVE : free < 0 ? CKR_GENERAL_ERROR : CKR_OK;
    if (rv == CKR_OK) {
        all[free].session = session;
        all[free].key = key;
        all[free].active = 1;
    }
    pthread_mutex_unlock(&finding);
    return rv;
}

/* The IV of this encryption, also where the caller sees it. */
static CK_RV choose_iv(CK_ULONG session, CK_GCM_MESSAGE_PARAMS *given, CK_BYTE *iv)
{
    int kind = control()->messages, by_token = kind == MESSAGES_RANDOM || kind == MESSAGES_COUNTED;
    if (given->ulIvLen != IV_BYTES || given->ivGenerator != (by_token ? CKG_GENERATE_RANDOM : CKG_NO_GENERATE))
        return CKR_MECHANISM_PARAM_INVALID;
    memcpy(iv, given->pIv, IV_BYTES);
    if (kind == MESSAGES_RANDOM)
        real->C_GenerateRandom(session, iv, IV_BYTES);
    if (kind == MESSAGES_COUNTED || kind == MESSAGES_WRONG)
        iv[IV_BYTES - 1] = ++counter;
    if (by_token)
        memcpy(given->pIv, iv, IV_BYTES);
    return CKR_OK;
}

static CK_RV encrypt_message(CK_ULONG session, void *parameter, CK_ULONG parameter_len, CK_BYTE *aad,
                             CK_ULONG aad_len, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    CK_GCM_MESSAGE_PARAMS *given = parameter;
    CK_BYTE iv[IV_BYTES], sealed[MOST_BYTES];
    CK_ULONG length = sizeof sealed;
    CK_RV rv = fault(N_C_Encrypt, 1);
    pthread_mutex_lock(&finding);
    int at = place_of(session);
    CK_ULONG key = at < 0 ? 0 : all[at].key;
    pthread_mutex_unlock(&finding);
    if (rv != CKR_OK)
        return rv;
    if (at < 0)
        return CKR_OPERATION_NOT_INITIALIZED;
    if (parameter_len != sizeof *given || *out_len < in_len || in_len > sizeof sealed - TAG_BYTES)
        return CKR_ARGUMENTS_BAD;
    rv = choose_iv(session, given, iv);
    if (rv != CKR_OK)
        return rv;
    CK_GCM_PARAMS own = {iv, IV_BYTES, 8 * IV_BYTES, aad, aad_len, 8 * TAG_BYTES};
    CK_MECHANISM mechanism = {CKM_AES_GCM, &own, sizeof own};
    rv = real->C_EncryptInit(session, &mechanism, key);
    if (rv == CKR_OK)
        rv = real->C_Encrypt(session, in, in_len, sealed, &length);
    if (rv != CKR_OK)
        return rv;
    memcpy(out, sealed, in_len);
    memcpy(given->pTag, sealed + in_len, TAG_BYTES);
    *out_len = in_len;
    return CKR_OK;
}

static CK_RV message_encrypt_final(CK_ULONG session)
{
    pthread_mutex_lock(&finding);
    int at = place_of(session);
    if (at >= 0)
        all[at].active = 0;
    pthread_mutex_unlock(&finding);
    return at < 0 ? CKR_OPERATION_NOT_INITIALIZED : CKR_OK;
}

/* -- the list ---------------------------------------------------------------------------------------------------- */

static struct {
    CK_FUNCTION_LIST first;
    void *get_interface_list, *get_interface, *login_user, *session_cancel;
    CK_RV (*message_encrypt_init)(CK_ULONG, CK_MECHANISM *, CK_ULONG);
    CK_RV (*encrypt_message)(CK_ULONG, void *, CK_ULONG, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
    void *encrypt_message_begin, *encrypt_message_next;
    CK_RV (*message_encrypt_final)(CK_ULONG);
    void *others[16];
} list_of_3_0 = {
    .message_encrypt_init = message_encrypt_init,
    .encrypt_message = encrypt_message,
    .message_encrypt_final = message_encrypt_final,
};

static struct {
    const char *name;
    void *list;
    CK_ULONG flags;
} interface_3_0 = {"PKCS 11", &list_of_3_0, 0};

__attribute__((visibility("default"))) CK_RV C_GetInterface(CK_BYTE *name, CK_VERSION *version, void **interface,
                                                            CK_ULONG flags)
{
    (void)name, (void)flags;
    if (control()->messages == NO_MESSAGES || version == NULL || version->major != 3 || version->minor != 0)
        return CKR_FUNCTION_NOT_SUPPORTED;
    list_of_3_0.first = list_of_ways;
    list_of_3_0.first.version = (CK_VERSION){3, 0};
    *interface = &interface_3_0;
    return CKR_OK;
}
