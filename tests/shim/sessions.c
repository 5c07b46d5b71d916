/* A token with few sessions. */
#include <stdatomic.h>

#include "shim.h"

static atomic_ulong open_sessions;

CK_RV play_C_OpenSession(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session)
{
    CK_ULONG most = control()->sessions;
    CK_ULONG before = atomic_fetch_add(&open_sessions, 1);
    CK_RV told = CKR_SESSION_COUNT;
    if (most == 0 || before < most)
        told = real->C_OpenSession(slot, flags, application, notify, session);
    if (told != CKR_OK)
        atomic_fetch_sub(&open_sessions, 1);
    return told;
}

CK_RV play_C_CloseSession(CK_ULONG session)
{
    CK_RV told = real->C_CloseSession(session);
    if (told == CKR_OK)
        atomic_fetch_sub(&open_sessions, 1);
    return told;
}

CK_RV play_C_CloseAllSessions(CK_ULONG slot)
{
    CK_RV told = real->C_CloseAllSessions(slot);
    if (told == CKR_OK)
        atomic_store(&open_sessions, 0);
    return told;
}

CK_RV play_C_Finalize(void *reserved)
{
    CK_RV told = real->C_Finalize(reserved);
    if (told == CKR_OK)
        atomic_store(&open_sessions, 0);
    return told;
}

void tell_sessions(CK_TOKEN_INFO *info)
{
    const struct control *now = control();
    if (now->sessions == 0 || now->sessions_untold)
        return;
    info->ulMaxSessionCount = info->ulMaxRwSessionCount = now->sessions;
    info->ulSessionCount = info->ulRwSessionCount = atomic_load(&open_sessions);
}
