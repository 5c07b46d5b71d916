/* What the parts of the shim share. */
#ifndef SHIM_H
#define SHIM_H

#include "cryptoki.h"

/* -- the token behind the shim ------------------------------------------------------------------------------- */

extern const CK_FUNCTION_LIST *real; /* null until C_Initialize (token.c) */

/* -- the control file (control.c) ---------------------------------------------------------------------------- */

enum function {
#define NUMBER(name, parameters, arguments) N_##name,
    FUNCTIONS(NUMBER)
#undef NUMBER
    FUNCTION_COUNT
};

enum iv { IV_CALLER, IV_WRITTEN_BACK, IV_APPENDED, IV_PREPENDED, IV_UNTOLD };

struct ignored {
    CK_ULONG attribute;
    CK_BYTE value;
};

struct refused {
    CK_ULONG attribute;
    CK_RV code;
};

enum objects { ALL_OBJECTS, PUBLIC_OBJECTS, UNWRAPPED_OBJECTS };

struct reported {
    CK_ULONG attribute;
    int value; /* -1: nothing is reported */
    enum objects objects;
};

enum { MOST_RULES = 32 };

struct control {
    enum iv iv;
    enum { ANY_IV, ZEROED_IV, NO_IV, REPEATED_IV, LONG_IV } iv_manner;
    int no_data_objects;
    int no_serial;
    CK_ULONG label_bytes; /* 0: as many as the token behind keeps */
    int labels_refused;
    CK_ULONG hidden[MOST_RULES];
    int hidden_count;
    int oaep_sha_256;
    int honest_lengths, lying_lengths;
    CK_ULONG fixed_length;
    CK_ULONG sessions; /* 0: no limit */
    int sessions_unreported;
    struct ignored ignored[MOST_RULES];
    int ignored_count;
    struct ignored unwrapped[MOST_RULES];
    int unwrapped_count;
    struct refused refused[MOST_RULES];
    int refused_count;
    struct reported reported[MOST_RULES];
    int reported_count;
    int readable_copies;
    int crash_if_refused;
    int kwp_by_new_number;
    int ed25519_by_oid;
    int pin_tries; /* 0: they are not counted */
    CK_ULONG unknown[MOST_RULES];
    enum { UNKNOWN_MARKED, UNKNOWN_STOPS, UNKNOWN_REFUSED, UNKNOWN_EMPTY, UNKNOWN_UNWRITTEN } unknown_manner[MOST_RULES];
    int unknown_count;
    char serial[17]; /* empty: that of the token behind */
    CK_ULONG least_room; /* 0: as the token behind */
    CK_ULONG most_signed; /* 0: as the token behind */
    int silent;
    int exact_numbers;
    enum { NO_MESSAGES, MESSAGES_CALLER, MESSAGES_RANDOM, MESSAGES_COUNTED, MESSAGES_WRONG } messages;
};

/* What the control file says now. It stays valid: what was read once is never freed. */
const struct control *control(void);

/* Beside the control file, for what must outlive a process; false if there is no control file. */
int control_path(const char *suffix, char *path, unsigned long room);

/* The answer that a fault gives instead of (before = 1), or after, the function; CKR_OK if there is none. */
CK_RV fault(enum function function, int before);

/* By how many bytes the answer of this thread's call is to be cut; the call sets it back (truncate.c). */
extern _Thread_local unsigned long truncate_by;

/* -- what a part does of a function (passing.c: nothing) --------------------------------------------- */

#define DECLARE(name, parameters, arguments) \
    CK_RV name parameters; \
    CK_RV play_##name parameters; \
    void truncate_##name parameters;
FUNCTIONS(DECLARE)
#undef DECLARE

int is_hidden(CK_ULONG mechanism);
void report_sessions(CK_TOKEN_INFO *info);
void report_pin_counters(CK_TOKEN_INFO *info);

/* -- messages of PKCS #11 3 (messages.c) ---------------------------------------------------------------------- */

extern CK_FUNCTION_LIST list_of_ways;
int message_is_active(CK_ULONG session);

/* -- attributes (attributes.c) ------------------------------------------------------------------------------- */

CK_RV read_attributes(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count);

/* -- templates (objects.c) ----------------------------------------------------------------------------------- */

enum { MOST_ATTRIBUTES = 48 };

struct shaped {
    CK_ATTRIBUTE attributes[MOST_ATTRIBUTES];
    CK_ULONG count;
};

/* A template as this token takes it: labels cut, attributes ignored. */
CK_RV shape(const CK_ATTRIBUTE *template, CK_ULONG count, struct shaped *shaped);

/* What a part plays of a deviating token (deviating.c): the code with which a template is refused, a template of
 * C_UnwrapKey as it is ignored, attributes as they are reported, the number that the token behind has for a mechanism,
 * and the name that it has for a curve. */
CK_RV refuse(const CK_ATTRIBUTE *template, CK_ULONG count);
void ignore_unwrapped(struct shaped *shaped);
CK_RV report(CK_ULONG session, CK_ULONG object, CK_ATTRIBUTE *template, CK_ULONG count, CK_RV rv);
CK_ULONG number_here(CK_ULONG mechanism);
CK_RV name_curve(struct shaped *shaped);

/* One attribute of it, or null. */
CK_ATTRIBUTE *attribute_of(struct shaped *shaped, CK_ULONG type);

#endif
