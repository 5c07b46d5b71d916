/* Every call of a slot or session goes to its member; members.c has what takes the place of these weak functions. */
#include "group.h"

#define FIRST(first, ...) first
#define FIRST_OF(arguments) FIRST arguments

#define ROUTE(name, parameters, arguments) \
    __attribute__((weak)) CK_RV name parameters \
    { \
        CK_ULONG group_number = (CK_ULONG)FIRST_OF(arguments); \
        CK_FUNCTION_LIST *their = members[member_of(group_number)].list; \
        if (their == 0) \
            return CKR_SESSION_HANDLE_INVALID; \
        FIRST_OF(arguments) = (__typeof__(FIRST_OF(arguments)))own_of(group_number); \
        return their->name arguments; \
    }
FUNCTIONS(ROUTE)
