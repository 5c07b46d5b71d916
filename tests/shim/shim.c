/* A PKCS #11 module that passes everything on to another one (SoftHSM), and plays other tokens by order.
 *
 * For tests only: on some orders it sees key material. Two variables of the environment, read at C_Initialize:
 * SHIM_MODULE is the path of the module behind it, SHIM_CONTROL the path of the control file (none: nothing is
 * played). The control file is read again whenever it was replaced: write another one beside it and rename.
 * A wrong line ends the process with a word on stderr.
 *
 * THE CONTROL FILE has one order per line; lines that are empty or begin with # are nothing. Numbers are as in C.
 *
 * What kind of token it is:
 *   iv written_back|appended|prepended|untold [zeroed|none|repeated|long]
 *                          AES-GCM: the token chooses the IV (12 bytes) of each encryption, and writes it at C_Encrypt
 *                          into the caller's buffer, or puts it behind or before its output, or nowhere.
 *                          zeroed: it wants the caller's IV to be 12 zeros. none: it wants a length of 0, and 96 bits.
 *                          repeated: it is always the same IV. long: the IV has 16 bytes. Decryption is as everywhere.
 *   no_data_objects        CKO_DATA is refused
 *   no_serial              C_GetTokenInfo reports a serial number of NUL bytes
 *   labels N cut|refused   CKA_LABEL has at most N bytes; a longer one is cut, or refused
 *   hide MECHANISM         the token has no such mechanism (not listed; refused by C_EncryptInit, C_DecryptInit,
 *                          C_SignInit, C_VerifyInit and C_UnwrapKey)
 *   oaep_sha_256           C_UnwrapKey takes OAEP with SHA-256 as well
 *   lengths honest|N       CKA_VALUE_LEN of unwrapped keys is right, or always N
 *   sessions N [untold]    at most N sessions in this process, which C_GetTokenInfo reports, or does not
 *   ignore ATTRIBUTE 0|1   whatever value a template orders for this boolean, objects get this one
 *   unknown ATTRIBUTE marked|stops|refused|empty|unwritten
 *                          C_GetAttributeValue does not know it. marked: as the standard wants, its length becomes -1,
 *                          and all others are answered. stops: those behind it are left as they are. refused: it
 *                          answers CKR_GENERAL_ERROR and nothing else, also for this attribute alone. empty: it
 *                          answers CKR_OK and a length of 0. unwritten: CKR_OK and the right length, and the
 *                          caller's buffer is left as it was.
 *   messages caller|random|counted|wrong
 *                          PKCS #11 3.0 with C_MessageEncryptInit, C_EncryptMessage and C_MessageEncryptFinal for
 *                          AES-GCM, beside which a session encrypts and decrypts nothing else. caller: the IV is the
 *                          caller's. random: the token insists on CKG_GENERATE_RANDOM. counted: the same, and counts.
 *                          wrong: it takes the caller's IV and uses another. To faults they are C_EncryptInit and
 *                          C_Encrypt.
 *   exact_numbers          C_GetAttributeValue answers CKR_BUFFER_TOO_SMALL for a number whose buffer is not of its size
 *   room N                 C_Sign answers CKR_BUFFER_TOO_SMALL to a buffer of fewer than N bytes
 *   serial TEXT            C_GetTokenInfo reports this serial, of 16 characters
 *   sign_at_most N         C_Sign answers CKR_DATA_LEN_RANGE to more than N bytes of data
 *   silent                 C_Sign answers CKR_OK, and writes neither its output nor the length of it
 *   ignore_unwrapped ATTRIBUTE 0|1
 *                          the same for objects of C_UnwrapKey alone
 *   refuse ATTRIBUTE CKR   a template that has this attribute is refused with this number
 *   report ATTRIBUTE 0|1|none [public|unwrapped]
 *                          C_GetAttributeValue gives this value, or CKR_ATTRIBUTE_TYPE_INVALID, for all objects, or
 *                          for public keys alone, or for those alone that were unwrapped
 *   readable_copies        C_CopyObject makes extractable copies of keys that are not
 *   crash_if_refused       a segmentation fault where C_UnwrapKey cannot unwrap OAEP
 *   kwp_by_new_number      AES-KWP is 0x210B (PKCS #11 3.0), not 0x210A
 *   ed25519_by_oid         Ed25519 is named by its object identifier, not by a PrintableString
 *   pin_tries N            the N-th wrong user PIN in a row locks; CK_TOKEN_INFO shows COUNT_LOW, FINAL_TRY and
 *                          LOCKED. The count is in the file SHIM_CONTROL.pins; C_InitPIN sets it back.
 *
 * Faults (the first rule that fits a call is taken):
 *   fault FUNCTION WHICH ACTION [after]
 *     FUNCTION             its name, such as C_Encrypt; *: all but C_Initialize, C_Finalize and C_GetFunctionList
 *     WHICH                3: the third call in this process since the file was read; 3+: that one and all later
 *                          ones; *: every call; until-initialized: every one until the module is initialised
 *                          again. Calls that python-pkcs11 makes to learn a size count too.
 *     ACTION               return CKR    answer this number
 *                          delay N       wait for N microseconds; then as if there were no fault
 *                          truncate N    the answer of C_Encrypt, C_Decrypt or C_Sign loses its last N bytes
 *                          wait          until the control file changes; then as if there were no fault. The file
 *                                        SHIM_CONTROL.waiting has a byte for each call that came so far.
 *                          hang          never return
 *                          kill          the process kills itself (SIGKILL)
 *                          crash         a segmentation fault (SIGSEGV)
 *     after                the token has done its work before the fault happens; else it is not asked at all, and
 *                          what an ...Init function has begun stays begun
 */
#include <stddef.h>

#include "shim.h"

/* -- the way of every call, by its name or through the list ---------------------------------------------------- */

#define WAY(name, parameters, arguments) \
    __attribute__((visibility("default"))) CK_RV name parameters \
    { \
        if (real == NULL && N_##name != N_C_Initialize && N_##name != N_C_GetFunctionList) \
            return CKR_CRYPTOKI_NOT_INITIALIZED; \
        CK_RV instead = fault(N_##name, 1); \
        if (instead != CKR_OK) \
            return instead; \
        CK_RV rv = play_##name arguments; \
        instead = fault(N_##name, 0); \
        if (truncate_by != 0) \
            truncate_##name arguments; \
        truncate_by = 0; \
        return instead == CKR_OK ? rv : instead; \
    }
FUNCTIONS(WAY)

CK_FUNCTION_LIST list_of_ways = {
    .version = {2, 40},
#define ENTRY(name, parameters, arguments) .name = name,
    FUNCTIONS(ENTRY)
};

CK_RV play_C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    if (list == NULL)
        return CKR_ARGUMENTS_BAD;
    *list = &list_of_ways;
    return CKR_OK;
}
