/* A token that counts wrong user PINs, and locks. */
#include <stdio.h>

#include "shim.h"

static int failures(void)
{
    char path[4096];
    int count = 0;
    FILE *file = control_path(".pins", path, sizeof path) ? fopen(path, "r") : NULL;
    if (file != NULL) {
        if (fscanf(file, "%d", &count) != 1)
            count = 0;
        fclose(file);
    }
    return count;
}

static void set_failures(int count)
{
    char path[4096];
    FILE *file = control_path(".pins", path, sizeof path) ? fopen(path, "w") : NULL;
    if (file != NULL) {
        fprintf(file, "%d\n", count);
        fclose(file);
    }
}

CK_RV play_C_Login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG pin_len)
{
    int tries = control()->pin_tries;
    if (tries == 0 || user != CKU_USER)
        return real->C_Login(session, user, pin, pin_len);
    if (failures() >= tries)
        return CKR_PIN_LOCKED;
    CK_RV rv = real->C_Login(session, user, pin, pin_len);
    if (rv == CKR_OK)
        set_failures(0);
    else if (rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LEN_RANGE)
        set_failures(failures() + 1);
    return rv;
}

CK_RV play_C_InitPIN(CK_ULONG session, CK_BYTE *pin, CK_ULONG pin_len)
{
    CK_RV rv = real->C_InitPIN(session, pin, pin_len);
    if (rv == CKR_OK && control()->pin_tries != 0)
        set_failures(0);
    return rv;
}

void report_pin_counters(CK_TOKEN_INFO *info)
{
    int tries = control()->pin_tries, failed;
    if (tries == 0)
        return;
    failed = failures();
    info->flags &= ~(CK_ULONG)(CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED);
    if (failed > 0)
        info->flags |= CKF_USER_PIN_COUNT_LOW;
    if (failed == tries - 1)
        info->flags |= CKF_USER_PIN_FINAL_TRY;
    if (failed >= tries)
        info->flags |= CKF_USER_PIN_LOCKED;
}
