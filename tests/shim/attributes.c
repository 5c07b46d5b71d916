/* A token that does not know some attributes, and one that wants large buffers. */
#include <stddef.h>

#include "shim.h"

/* Which order is about this attribute, or -1. */
static int order_of(const struct control *now, CK_ULONG type)
{
    for (int at = 0; at < now->unknown_count; at++)
        if (now->unknown[at] == type)
            return at;
    return -1;
}

static int is_number(CK_ULONG type)
{
    return type == CKA_CLASS || type == CKA_KEY_TYPE || type == CKA_VALUE_LEN;
}

CK_RV read_attributes(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    const struct control *now = control();
    CK_RV rv = CKR_OK;
    if (now->unknown_count == 0 && !now->exact_numbers)
        return real->C_GetAttributeValue(session, object, template, count);
    for (CK_ULONG at = 0; at < count; at++) {
        int order = order_of(now, template[at].type);
        if (order >= 0 && now->unknown_manner[order] == UNKNOWN_REFUSED)
            return CKR_GENERAL_ERROR;
    }
    for (CK_ULONG at = 0; at < count; at++) {
        int order = order_of(now, template[at].type);
        CK_RV one = CKR_ATTRIBUTE_TYPE_INVALID;
        if (now->exact_numbers && is_number(template[at].type) && template[at].pValue != NULL &&
            template[at].ulValueLen != sizeof(CK_ULONG)) {
            template[at].ulValueLen = (CK_ULONG)-1;
            one = CKR_BUFFER_TOO_SMALL;
        } else if (order < 0)
            one = real->C_GetAttributeValue(session, object, &template[at], 1);
        else if (now->unknown_manner[order] >= UNKNOWN_EMPTY) {
            CK_ULONG size = is_number(template[at].type) ? sizeof(CK_ULONG) : 1;
            template[at].ulValueLen = now->unknown_manner[order] == UNKNOWN_EMPTY ? 0 : size;
            one = CKR_OK;
        } else
            template[at].ulValueLen = (CK_ULONG)-1;
        if (one != CKR_OK)
            rv = one;
        if (order >= 0 && now->unknown_manner[order] == UNKNOWN_STOPS)
            return rv;
    }
    return rv;
}

CK_RV play_C_Sign(CK_ULONG session, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    CK_ULONG least = control()->least_room;
    if (control()->silent && out != NULL)
        return CKR_OK;
    if (control()->most_signed != 0 && in_len > control()->most_signed) {
        CK_BYTE unseen[1024];
        CK_ULONG size = sizeof unseen;
        real->C_Sign(session, in, 1, unseen, &size); /* a refusal ends the operation */
        return CKR_DATA_LEN_RANGE;
    }
    if (out == NULL || *out_len >= least)
        return real->C_Sign(session, in, in_len, out, out_len);
    *out_len = least;
    return CKR_BUFFER_TOO_SMALL;
}
