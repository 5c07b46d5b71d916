/* A PKCS #11 module that shows the tokens of several others, as a vendor's client shows the members of an HA group.
 *
 * For tests only. GROUP_MEMBERS, read at C_Initialize, names the members with blanks between them; each is the path of a
 * module, and variables of the environment that are set while it is initialised: PATH|NAME=VALUE|NAME=VALUE. Two members
 * need two copies of a library. A member that fails at C_Initialize has no slot until the next C_Initialize. Slots and
 * sessions have their member's number in the upper half (routing.c).
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "group.h"

struct member members[MOST_MEMBERS];
static int count_of_members;

static CK_FUNCTION_LIST list_of_routes = {
    .version = {2, 40},
#define ENTRY(name, parameters, arguments) .name = name,
    FUNCTIONS(ENTRY)
};

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    if (list == NULL)
        return CKR_ARGUMENTS_BAD;
    *list = &list_of_routes;
    return CKR_OK;
}

static CK_FUNCTION_LIST *load(const char *path)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CK_RV (*entry)(CK_FUNCTION_LIST **) = NULL;
    CK_FUNCTION_LIST *list = NULL;
    if (module != NULL)
        *(void **)&entry = dlsym(module, "C_GetFunctionList");
    if (entry == NULL || entry(&list) != CKR_OK) {
        fprintf(stderr, "group: %s is no PKCS #11 module\n", path);
        abort();
    }
    return list;
}

/* Set the variables of a member, load it if it is another one than before, and initialise it. */
static CK_RV begin(struct member *member, char *words, void *arguments)
{
    char *rest, *path = strtok_r(words, "|", &rest);
    for (char *each = strtok_r(NULL, "|", &rest); each != NULL; each = strtok_r(NULL, "|", &rest)) {
        char *value = strchr(each, '=');
        if (value == NULL)
            abort();
        *value = '\0';
        setenv(each, value + 1, 1);
    }
    if (path == NULL || strlen(path) >= sizeof member->path)
        abort();
    if (strcmp(path, member->path) != 0) {
        member->list = load(path);
        strcpy(member->path, path);
    }
    return member->list->C_Initialize(arguments);
}

CK_RV C_Initialize(void *arguments)
{
    const char *named = getenv("GROUP_MEMBERS");
    char words[8192], *rest;
    CK_RV rv = CKR_GENERAL_ERROR;
    if (named == NULL || strlen(named) >= sizeof words) {
        fprintf(stderr, "group: GROUP_MEMBERS names no members\n");
        return CKR_GENERAL_ERROR;
    }
    strcpy(words, named);
    count_of_members = 0;
    for (char *each = strtok_r(words, " ", &rest); each != NULL; each = strtok_r(NULL, " ", &rest)) {
        if (count_of_members == MOST_MEMBERS)
            abort();
        struct member *member = &members[count_of_members++];
        CK_RV answer = begin(member, each, arguments);
        member->answers = answer == CKR_OK;
        if (rv != CKR_OK)
            rv = answer;
    }
    return rv;
}

CK_RV C_Finalize(void *reserved)
{
    for (struct member *each = members; each < members + count_of_members; each++)
        if (each->answers)
            each->list->C_Finalize(reserved);
    return CKR_OK;
}

CK_RV C_GetInfo(void *info)
{
    for (struct member *each = members; each < members + count_of_members; each++)
        if (each->answers && each->list->C_GetInfo(info) == CKR_OK)
            return CKR_OK;
    return CKR_GENERAL_ERROR;
}

/* A member that fails now has no slots. */
CK_RV C_GetSlotList(CK_BYTE present, CK_ULONG *slots, CK_ULONG *count)
{
    CK_ULONG room = slots == NULL ? 0 : *count, total = 0;
    for (int at = 0; at < count_of_members; at++) {
        CK_ULONG own[64], number = sizeof own / sizeof *own;
        if (!members[at].answers || members[at].list->C_GetSlotList(present, own, &number) != CKR_OK)
            continue;
        for (CK_ULONG slot = 0; slot < number; slot++, total++)
            if (slots != NULL && total < room)
                slots[total] = numbered(at, own[slot]);
    }
    *count = total;
    return slots != NULL && total > room ? CKR_BUFFER_TOO_SMALL : CKR_OK;
}

CK_RV C_OpenSession(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session)
{
    CK_RV rv = members[member_of(slot)].list->C_OpenSession(own_of(slot), flags, application, notify, session);
    if (rv == CKR_OK)
        *session = numbered(member_of(slot), *session);
    return rv;
}
