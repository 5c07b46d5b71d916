/* What the parts of the group share. */
#ifndef GROUP_H
#define GROUP_H

#include "../shim/cryptoki.h"

enum { MOST_MEMBERS = 4 };

struct member {
    char path[1024];
    CK_FUNCTION_LIST *list;
    int answers; /* C_Initialize succeeded */
};

extern struct member members[MOST_MEMBERS];

#define DECLARE(name, parameters, arguments) __attribute__((visibility("default"))) CK_RV name parameters;
FUNCTIONS(DECLARE)
#undef DECLARE

/* A slot or session of the group, and what it is to its member. Numbers of members are below MOST_MEMBERS. */
static inline CK_ULONG numbered(int member, CK_ULONG own) { return (CK_ULONG)member << 32 | own; }
static inline int member_of(CK_ULONG number) { return (int)(number >> 32) % MOST_MEMBERS; }
static inline CK_ULONG own_of(CK_ULONG number) { return number & 0xffffffff; }

#endif
