/* What a token makes of a template: short labels, attributes that it ignores, no data objects. */
#include <pthread.h>
#include <string.h>

#include "shim.h"

static CK_BYTE booleans[] = {0, 1};

static void ignore(CK_ATTRIBUTE *attribute)
{
    const struct control *now = control();
    for (int at = 0; at < now->ignored_count; at++)
        if (now->ignored[at].attribute == attribute->type)
            attribute->pValue = &booleans[now->ignored[at].value];
}

CK_RV shape(const CK_ATTRIBUTE *template, CK_ULONG count, struct shaped *shaped)
{
    const struct control *now = control();
    if (count > MOST_ATTRIBUTES)
        return CKR_GENERAL_ERROR;
    CK_RV refused = refuse(template, count);
    if (refused != CKR_OK)
        return refused;
    if (count > 0)
        memcpy(shaped->attributes, template, count * sizeof *template);
    shaped->count = count;
    for (CK_ULONG at = 0; at < count; at++) {
        CK_ATTRIBUTE *attribute = &shaped->attributes[at];
        if (attribute->type == CKA_LABEL && now->label_bytes != 0 && attribute->ulValueLen > now->label_bytes) {
            if (now->labels_refused)
                return CKR_ATTRIBUTE_VALUE_INVALID;
            attribute->ulValueLen = now->label_bytes;
        }
        ignore(attribute);
    }
    return name_curve(shaped);
}

CK_ATTRIBUTE *attribute_of(struct shaped *shaped, CK_ULONG type)
{
    for (CK_ULONG at = 0; at < shaped->count; at++)
        if (shaped->attributes[at].type == type)
            return &shaped->attributes[at];
    return NULL;
}

CK_RV play_C_CreateObject(CK_ULONG session, CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG *made)
{
    struct shaped shaped;
    CK_RV rv = shape(template, count, &shaped);
    if (rv != CKR_OK)
        return rv;
    CK_ATTRIBUTE *class = attribute_of(&shaped, CKA_CLASS);
    if (control()->no_data_objects && class != NULL && *(CK_ULONG *)class->pValue == CKO_DATA)
        return CKR_ATTRIBUTE_VALUE_INVALID;
    return real->C_CreateObject(session, shaped.attributes, shaped.count, made);
}

CK_RV play_C_GenerateKey(CK_ULONG session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *template, CK_ULONG count,
                         CK_ULONG *made)
{
    struct shaped shaped;
    CK_RV rv = shape(template, count, &shaped);
    return rv == CKR_OK ? real->C_GenerateKey(session, mechanism, shaped.attributes, shaped.count, made) : rv;
}

/* -- wrapping keys whose OAEP with SHA-256 the shim does by raw decryption ------------------------------------------
 * For that they must be able to decrypt, whatever was ordered; what was ordered is what is reported of them (that they
 * cannot, of those that another process made). */

enum { MOST_PAIRS = 256 };
static struct {
    CK_ULONG handle;
    CK_BYTE decrypt;
} ordered[MOST_PAIRS];
static int ordered_next;
static pthread_mutex_t ordering = PTHREAD_MUTEX_INITIALIZER;

static void remember(CK_ULONG handle, CK_BYTE decrypt)
{
    pthread_mutex_lock(&ordering);
    ordered[ordered_next % MOST_PAIRS].handle = handle;
    ordered[ordered_next++ % MOST_PAIRS].decrypt = decrypt;
    pthread_mutex_unlock(&ordering);
}

static CK_BYTE remembered(CK_ULONG handle)
{
    CK_BYTE decrypt = 0;
    pthread_mutex_lock(&ordering);
    for (int at = 0; at < MOST_PAIRS; at++)
        if (ordered[at].handle == handle)
            decrypt = ordered[at].decrypt;
    pthread_mutex_unlock(&ordering);
    return decrypt;
}

CK_RV play_C_GenerateKeyPair(CK_ULONG session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *of_public,
                             CK_ULONG public_count, CK_ATTRIBUTE *of_private, CK_ULONG private_count,
                             CK_ULONG *public_key, CK_ULONG *private_key)
{
    struct shaped public, private;
    CK_BYTE decrypt = 0;
    CK_RV rv = shape(of_public, public_count, &public);
    if (rv == CKR_OK)
        rv = shape(of_private, private_count, &private);
    if (rv != CKR_OK)
        return rv;
    CK_ATTRIBUTE *unwraps = attribute_of(&private, CKA_UNWRAP);
    CK_ATTRIBUTE *wanted = NULL;
    if (control()->oaep_sha_256 && unwraps != NULL && *(CK_BYTE *)unwraps->pValue)
        wanted = attribute_of(&private, CKA_DECRYPT);
    if (wanted != NULL) {
        decrypt = *(CK_BYTE *)wanted->pValue;
        wanted->pValue = &booleans[1];
    }
    rv = real->C_GenerateKeyPair(session, mechanism, public.attributes, public.count, private.attributes,
                                   private.count, public_key, private_key);
    if (rv == CKR_OK && wanted != NULL)
        remember(*private_key, decrypt);
    return rv;
}

/* -- what is reported of objects --------------------------------------------------------------------------------- */

static CK_BYTE boolean_of(CK_ULONG session, CK_ULONG object, CK_ULONG type, CK_BYTE otherwise)
{
    CK_BYTE value = otherwise;
    CK_ATTRIBUTE asked = {type, &value, sizeof value};
    return real->C_GetAttributeValue(session, object, &asked, 1) == CKR_OK ? value : otherwise;
}

static int is_wrapping_key(CK_ULONG session, CK_ULONG object)
{
    CK_ULONG class = 0;
    CK_ATTRIBUTE asked = {CKA_CLASS, &class, sizeof class};
    return real->C_GetAttributeValue(session, object, &asked, 1) == CKR_OK && class == CKO_PRIVATE_KEY &&
           boolean_of(session, object, CKA_UNWRAP, 0);
}

CK_RV play_C_GetAttributeValue(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    const struct control *now = control();
    CK_RV rv = read_attributes(session, object, template, count);
    for (CK_ULONG at = 0; rv == CKR_OK && at < count; at++) {
        CK_ATTRIBUTE *each = &template[at];
        if (each->pValue == NULL)
            continue;
        if (now->oaep_sha_256 && each->type == CKA_DECRYPT && is_wrapping_key(session, object))
            *(CK_BYTE *)each->pValue = remembered(object);
        if (now->lying_lengths && each->type == CKA_VALUE_LEN && !boolean_of(session, object, CKA_LOCAL, 1))
            *(CK_ULONG *)each->pValue = now->fixed_length;
    }
    return report(session, object, template, count, rv);
}
