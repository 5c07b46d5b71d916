/* The module behind the shim, and what its token reports of itself. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

const CK_FUNCTION_LIST *real;

/* -- beginning ------------------------------------------------------------------------------------------------- */

static const CK_FUNCTION_LIST *load(const char *path)
{
    void *module = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CK_RV (*entry)(CK_FUNCTION_LIST **) = NULL;
    CK_FUNCTION_LIST *list = NULL;
    if (module != NULL)
        *(void **)&entry = dlsym(module, "C_GetFunctionList");
    if (entry == NULL || entry(&list) != CKR_OK)
        return NULL;
    return list;
}

CK_RV play_C_Initialize(void *arguments)
{
    if (real == NULL)
        real = load(getenv("SHIM_MODULE"));
    if (real == NULL) {
        fprintf(stderr, "shim: SHIM_MODULE names no PKCS #11 module\n");
        return CKR_GENERAL_ERROR;
    }
    return real->C_Initialize(arguments);
}

CK_RV play_C_GetTokenInfo(CK_ULONG slot, CK_TOKEN_INFO *info)
{
    CK_RV rv = real->C_GetTokenInfo(slot, info);
    if (rv == CKR_OK) {
        if (control()->serial[0] != '\0')
            memcpy(info->serialNumber, control()->serial, sizeof info->serialNumber);
        if (control()->no_serial)
            memset(info->serialNumber, 0, sizeof info->serialNumber);
        report_sessions(info);
        report_pin_counters(info);
    }
    return rv;
}
