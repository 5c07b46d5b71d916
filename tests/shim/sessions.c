/* A token with few sessions. */
#include <stdatomic.h>

#include "shim.h"

static atomic_ulong open_sessions;

CK_RV play_C_OpenSession(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session)
{
    CK_ULONG most = control()->sessions;
    CK_ULONG before = atomic_fetch_add(&open_sessions, 1);
    CK_RV rv = CKR_SESSION_COUNT;
    if (most == 0 || before < most)
        rv = real->C_OpenSession(slot, flags, application, notify, session);
    if (rv != CKR_OK)
        atomic_fetch_sub(&open_sessions, 1);
    return rv;
}

CK_RV play_C_CloseSession(CK_ULONG session)
{
    CK_RV rv = real->C_CloseSession(session);
    if (rv == CKR_OK)
        atomic_fetch_sub(&open_sessions, 1);
    return rv;
}

CK_RV play_C_CloseAllSessions(CK_ULONG slot)
{
    CK_RV rv = real->C_CloseAllSessions(slot);
    if (rv == CKR_OK)
        atomic_store(&open_sessions, 0);
    return rv;
}

CK_RV play_C_Finalize(void *reserved)
{
    CK_RV rv = real->C_Finalize(reserved);
    if (rv == CKR_OK)
        atomic_store(&open_sessions, 0);
    return rv;
}

void report_sessions(CK_TOKEN_INFO *info)
{
    const struct control *now = control();
    if (now->sessions == 0 || now->sessions_unreported)
        return;
    info->ulMaxSessionCount = info->ulMaxRwSessionCount = now->sessions;
    info->ulSessionCount = info->ulRwSessionCount = atomic_load(&open_sessions);
}
