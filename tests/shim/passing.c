/* What no part plays goes straight through: a part's own function of the same name takes the place of a weak one. */
#include "shim.h"

#define PASS(name, parameters, arguments) \
    __attribute__((weak)) CK_RV play_##name parameters { return real->name arguments; }
FUNCTIONS(PASS)
