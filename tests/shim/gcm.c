/* A token that chooses the IVs of AES-GCM by itself. */
#include <pthread.h>
#include <string.h>

#include "shim.h"

enum { IV_BYTES = 12, LONG_BYTES = 16, MOST_SESSIONS = 64 };

/* An encryption that has begun, by session. */
struct begun {
    CK_ULONG session;
    enum iv place; /* IV_CALLER: nothing is to be done */
    CK_BYTE iv[LONG_BYTES];
    CK_ULONG length;
    CK_BYTE *callers;
};

static struct begun all[MOST_SESSIONS];
static pthread_mutex_t finding = PTHREAD_MUTEX_INITIALIZER;

/* The entry of a session; with ``make`` a free one if it has none. */
static struct begun *begun(CK_ULONG session, int make)
{
    struct begun *operation = NULL, *free = NULL;
    pthread_mutex_lock(&finding);
    for (int at = 0; at < MOST_SESSIONS && operation == NULL; at++) {
        if (all[at].place != IV_CALLER && all[at].session == session)
            operation = &all[at];
        else if (all[at].place == IV_CALLER && free == NULL)
            free = &all[at];
    }
    if (operation == NULL && make && free != NULL) {
        operation = free;
        operation->session = session;
        operation->place = IV_APPENDED; /* taken; the caller says what it is */
    }
    pthread_mutex_unlock(&finding);
    return operation;
}

static void end(struct begun *one)
{
    pthread_mutex_lock(&finding);
    one->place = IV_CALLER;
    pthread_mutex_unlock(&finding);
}

static int is_welcome(const CK_GCM_PARAMS *given)
{
    static const CK_BYTE zeros[IV_BYTES];
    const struct control *now = control();
    if (now->iv_manner == NO_IV)
        return given->ulIvLen == 0 && given->ulIvBits == 8 * IV_BYTES;
    if (given->ulIvLen != IV_BYTES || given->pIv == NULL)
        return 0;
    return now->iv_manner != ZEROED_IV || memcmp(given->pIv, zeros, IV_BYTES) == 0;
}

CK_RV play_C_EncryptInit(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key)
{
    const struct control *now = control();
    if (message_is_active(session))
        return CKR_OPERATION_ACTIVE;
    struct begun *left = begun(session, 0);
    if (left != NULL)
        end(left);
    if (is_hidden(mechanism->mechanism))
        return CKR_MECHANISM_INVALID;
    if (now->iv == IV_CALLER || mechanism->mechanism != CKM_AES_GCM)
        return real->C_EncryptInit(session, mechanism, key);

    CK_GCM_PARAMS *given = mechanism->pParameter;
    if (!is_welcome(given))
        return CKR_MECHANISM_PARAM_INVALID;
    struct begun *one = begun(session, 1);
    if (one == NULL)
        return CKR_GENERAL_ERROR;
    CK_GCM_PARAMS own = *given;
    CK_MECHANISM with_own = {CKM_AES_GCM, &own, sizeof own};
    one->length = now->iv_manner == LONG_IV ? LONG_BYTES : IV_BYTES;
    own.pIv = one->iv;
    own.ulIvLen = one->length;
    own.ulIvBits = 8 * one->length;
    CK_RV rv = real->C_GenerateRandom(session, one->iv, one->length);
    if (now->iv_manner == REPEATED_IV)
        memset(one->iv, 'r', one->length);
    if (rv == CKR_OK)
        rv = real->C_EncryptInit(session, &with_own, key);
    one->callers = given->pIv;
    if (rv == CKR_OK)
        one->place = now->iv;
    else
        end(one);
    return rv;
}

CK_RV play_C_Encrypt(CK_ULONG session, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    struct begun *one = begun(session, 0);
    if (one == NULL)
        return real->C_Encrypt(session, in, in_len, out, out_len);
    CK_ULONG extra = one->place == IV_APPENDED || one->place == IV_PREPENDED ? one->length : 0;
    CK_ULONG before = one->place == IV_PREPENDED ? extra : 0;
    CK_ULONG room = *out_len > extra ? *out_len - extra : 0;

    CK_RV rv = real->C_Encrypt(session, in, in_len, out == NULL ? NULL : out + before, &room);
    *out_len = room + extra;
    if (out == NULL ? rv == CKR_OK : rv == CKR_BUFFER_TOO_SMALL)
        return rv; /* it goes on */
    if (rv == CKR_OK && one->place == IV_WRITTEN_BACK)
        memcpy(one->callers, one->iv, IV_BYTES);
    else if (rv == CKR_OK && extra)
        memcpy(before ? out : out + room, one->iv, extra);
    end(one);
    return rv;
}
