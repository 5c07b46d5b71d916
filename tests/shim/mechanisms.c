/* Mechanisms that the token has not. */
#include <stddef.h>

#include "shim.h"

int is_hidden(CK_ULONG mechanism)
{
    const struct control *now = control();
    for (int at = 0; at < now->hidden_count; at++)
        if (now->hidden[at] == mechanism)
            return 1;
    return 0;
}

CK_RV play_C_GetMechanismList(CK_ULONG slot, CK_ULONG *list, CK_ULONG *count)
{
    CK_RV rv = real->C_GetMechanismList(slot, list, count);
    if (rv != CKR_OK || list == NULL) /* the room that is asked for may be more than is needed */
        return rv;
    CK_ULONG kept = 0;
    for (CK_ULONG at = 0; at < *count; at++) {
        CK_ULONG number = number_here(list[at]);
        if (!is_hidden(number))
            list[kept++] = number;
    }
    *count = kept;
    return CKR_OK;
}

CK_RV play_C_GetMechanismInfo(CK_ULONG slot, CK_ULONG type, void *info)
{
    return is_hidden(type) ? CKR_MECHANISM_INVALID : real->C_GetMechanismInfo(slot, number_here(type), info);
}

CK_RV play_C_WrapKey(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG by, CK_ULONG key, CK_BYTE *out,
                     CK_ULONG *out_len)
{
    CK_MECHANISM numbered = *mechanism;
    numbered.mechanism = number_here(mechanism->mechanism);
    return is_hidden(mechanism->mechanism) ? CKR_MECHANISM_INVALID
                                           : real->C_WrapKey(session, &numbered, by, key, out, out_len);
}

CK_RV play_C_SignInit(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key)
{
    return is_hidden(mechanism->mechanism) ? CKR_MECHANISM_INVALID : real->C_SignInit(session, mechanism, key);
}

CK_RV play_C_VerifyInit(CK_ULONG session, CK_MECHANISM *mechanism, CK_ULONG key)
{
    return is_hidden(mechanism->mechanism) ? CKR_MECHANISM_INVALID : real->C_VerifyInit(session, mechanism, key);
}
