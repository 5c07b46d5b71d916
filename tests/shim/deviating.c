/* A token that refuses attributes in templates, ignores the template of C_UnwrapKey, reports attributes otherwise, copies
 * what must not be copied, numbers AES-KWP as PKCS #11 3.0 does, or names Ed25519 by an object identifier. */
#include <pthread.h>
#include <string.h>

#include "shim.h"

static CK_BYTE booleans[] = {0, 1};

CK_RV refuse(const CK_ATTRIBUTE *template, CK_ULONG count)
{
    const struct control *now = control();
    for (CK_ULONG at = 0; at < count; at++)
        for (int each = 0; each < now->refused_count; each++)
            if (template[at].type == now->refused[each].attribute)
                return now->refused[each].code;
    return CKR_OK;
}

void ignore_unwrapped(struct shaped *shaped)
{
    const struct control *now = control();
    for (int each = 0; each < now->unwrapped_count; each++) {
        CK_ATTRIBUTE *attribute = attribute_of(shaped, now->unwrapped[each].attribute);
        if (attribute != NULL)
            attribute->pValue = &booleans[now->unwrapped[each].value];
    }
}

/* -- copies ------------------------------------------------------------------------------------------------------ */

enum { MOST_COPIES = 64 };
static CK_ULONG readable[MOST_COPIES];
static int readable_next;
static pthread_mutex_t copying = PTHREAD_MUTEX_INITIALIZER;

static int is_readable_copy(CK_ULONG object)
{
    int is_known = 0;
    pthread_mutex_lock(&copying);
    for (int at = 0; at < MOST_COPIES; at++)
        is_known |= object != 0 && readable[at] == object;
    pthread_mutex_unlock(&copying);
    return is_known;
}

/* SoftHSM makes no copy that is extractable: the shim reports a plain copy as one. */
CK_RV play_C_CopyObject(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG *made)
{
    struct shaped shaped;
    int loosened = 0;
    CK_RV rv = shape(template, count, &shaped);
    if (rv != CKR_OK)
        return rv;
    if (control()->readable_copies)
        for (CK_ULONG at = 0; at < shaped.count; at++)
            if (shaped.attributes[at].type == CKA_EXTRACTABLE && *(CK_BYTE *)shaped.attributes[at].pValue) {
                shaped.attributes[at] = shaped.attributes[--shaped.count];
                loosened = 1;
            }
    rv = real->C_CopyObject(session, object, shaped.attributes, shaped.count, made);
    pthread_mutex_lock(&copying);
    for (int at = 0; rv == CKR_OK && at < MOST_COPIES; at++) /* the handle may have been another object's */
        readable[at] = readable[at] == *made ? 0 : readable[at];
    if (rv == CKR_OK && loosened)
        readable[readable_next++ % MOST_COPIES] = *made;
    pthread_mutex_unlock(&copying);
    return rv;
}

/* -- what is reported -------------------------------------------------------------------------------------------- */

static int is_of(enum objects objects, CK_ULONG session, CK_ULONG object)
{
    CK_ULONG class = 0;
    CK_BYTE local = 1;
    CK_ATTRIBUTE of_class = {CKA_CLASS, &class, sizeof class}, of_local = {CKA_LOCAL, &local, sizeof local};
    if (objects == PUBLIC_OBJECTS)
        return real->C_GetAttributeValue(session, object, &of_class, 1) == CKR_OK && class == CKO_PUBLIC_KEY;
    if (objects == UNWRAPPED_OBJECTS)
        return real->C_GetAttributeValue(session, object, &of_local, 1) == CKR_OK && !local;
    return 1;
}

CK_RV report(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count, CK_RV rv)
{
    const struct control *now = control();
    for (CK_ULONG at = 0; at < count; at++) {
        CK_ATTRIBUTE *each = &template[at];
        if (now->readable_copies && each->type == CKA_EXTRACTABLE && rv == CKR_OK && each->pValue != NULL &&
            is_readable_copy(object))
            *(CK_BYTE *)each->pValue = 1;
        for (int order = 0; order < now->reported_count; order++) {
            const struct reported *reported = &now->reported[order];
            if (reported->attribute != each->type || !is_of(reported->objects, session, object))
                continue;
            if (reported->value < 0) {
                each->ulValueLen = (CK_ULONG)-1;
                rv = CKR_ATTRIBUTE_TYPE_INVALID;
            } else if (each->pValue != NULL && each->ulValueLen == 1)
                *(CK_BYTE *)each->pValue = (CK_BYTE)reported->value;
        }
    }
    return rv;
}

/* -- numbers and names ------------------------------------------------------------------------------------------- */

CK_ULONG number_here(CK_ULONG mechanism)
{
    if (!control()->kwp_by_new_number)
        return mechanism;
    return mechanism == CKM_AES_KEY_WRAP_KWP ? CKM_AES_KEY_WRAP_PAD
                                             : mechanism == CKM_AES_KEY_WRAP_PAD ? CKM_AES_KEY_WRAP_KWP : mechanism;
}

static const CK_BYTE BY_NAME[] = "\x13\x0c" "edwards25519";
static const CK_BYTE BY_OID[] = {0x06, 0x03, 0x2b, 0x65, 0x70};

CK_RV name_curve(struct shaped *shaped)
{
    CK_ATTRIBUTE *curve = attribute_of(shaped, CKA_EC_PARAMS);
    if (!control()->ed25519_by_oid || curve == NULL)
        return CKR_OK;
    if (curve->ulValueLen == sizeof BY_NAME - 1 && memcmp(curve->pValue, BY_NAME, sizeof BY_NAME - 1) == 0)
        return CKR_CURVE_NOT_SUPPORTED;
    if (curve->ulValueLen == sizeof BY_OID && memcmp(curve->pValue, BY_OID, sizeof BY_OID) == 0) {
        curve->pValue = (void *)BY_NAME;
        curve->ulValueLen = sizeof BY_NAME - 1;
    }
    return CKR_OK;
}
