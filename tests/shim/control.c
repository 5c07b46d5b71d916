/* The control file: its language is in shim.c. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

enum action { ACT_RETURN, ACT_DELAY, ACT_HANG, ACT_KILL, ACT_TRUNCATE, ACT_WAIT, ACT_CRASH };

struct rule {
    enum function function; /* FUNCTION_COUNT: every one but those that begin and end */
    unsigned long first, last; /* which calls, counted from 1 */
    int until_initialized;
    unsigned long beginnings; /* how often the module had been initialised when the order came */
    enum action action;
    unsigned long argument;
    int before;
    atomic_ulong calls;
};

struct orders {
    struct control control;
    struct rule rules[MOST_RULES];
    int rule_count;
    struct stat read_from;
};

static const char *const NAMES[] = {
#define NAME(name, parameters, arguments) #name,
    FUNCTIONS(NAME)
#undef NAME
};

_Thread_local unsigned long truncate_by;
static atomic_ulong beginnings;
static char control_file[4096]; /* as SHIM_CONTROL named it at C_Initialize: copies of the shim have one each */
static struct orders nothing;
static _Atomic(struct orders *) current = &nothing;
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;

/* -- parsing ---------------------------------------------------------------------------------------------------- */

static void wrong(const char *line)
{
    fprintf(stderr, "shim: the control file has no such order: %s\n", line);
    abort();
}

static unsigned long number(const char *word, const char *line)
{
    char *end;
    unsigned long value;
    if (word == NULL)
        wrong(line);
    value = strtoul(word, &end, 0);
    if (end == word || *end != '\0')
        wrong(line);
    return value;
}

static int one_of(const char *word, const char *const *words, int count, const char *line)
{
    for (int at = 0; word != NULL && at < count; at++)
        if (strcmp(word, words[at]) == 0)
            return at;
    wrong(line);
    return -1;
}

static int flag(const char *word, const char *wanted, const char *line)
{
    if (word != NULL && strcmp(word, wanted) != 0)
        wrong(line);
    return word != NULL;
}

static void parse_which(struct rule *rule, char *word, const char *line)
{
    if (word == NULL)
        wrong(line);
    char *plus = strchr(word, '+');
    rule->until_initialized = strcmp(word, "until-initialized") == 0;
    rule->beginnings = atomic_load(&beginnings);
    if (strcmp(word, "*") == 0 || rule->until_initialized) {
        rule->first = 1;
        rule->last = ~0UL;
        return;
    }
    if (plus != NULL)
        *plus = '\0';
    rule->first = number(word, line);
    rule->last = plus != NULL ? ~0UL : rule->first;
}

static void parse_fault(struct rule *rule, char **rest, const char *line)
{
    static const char *const actions[] = {"return", "delay", "hang", "kill", "truncate", "wait", "crash"};
    char *name = strtok_r(NULL, " ", rest);
    if (name != NULL && strcmp(name, "*") == 0)
        rule->function = FUNCTION_COUNT;
    else
        rule->function = one_of(name, NAMES, FUNCTION_COUNT, line);
    parse_which(rule, strtok_r(NULL, " ", rest), line);
    rule->action = one_of(strtok_r(NULL, " ", rest), actions, 7, line);
    if (rule->action == ACT_RETURN || rule->action == ACT_DELAY || rule->action == ACT_TRUNCATE)
        rule->argument = number(strtok_r(NULL, " ", rest), line);
    rule->before = !flag(strtok_r(NULL, " ", rest), "after", line) && rule->action != ACT_TRUNCATE;
}

static void parse_iv(struct control *control, char **rest, const char *line)
{
    static const char *const places[] = {"caller", "written_back", "appended", "prepended", "untold"};
    static const char *const manners[] = {"zeroed", "none", "repeated", "long"};
    control->iv = one_of(strtok_r(NULL, " ", rest), places, 5, line);
    char *manner = strtok_r(NULL, " ", rest);
    control->iv_manner = manner == NULL ? ANY_IV : ZEROED_IV + one_of(manner, manners, 4, line);
}

static void parse_labels(struct control *control, char **rest, const char *line)
{
    static const char *const ways[] = {"cut", "refused"};
    control->label_bytes = number(strtok_r(NULL, " ", rest), line);
    control->labels_refused = one_of(strtok_r(NULL, " ", rest), ways, 2, line);
}

static void parse_lengths(struct control *control, const char *word, const char *line)
{
    control->honest_lengths = word != NULL && strcmp(word, "honest") == 0;
    control->lying_lengths = !control->honest_lengths;
    if (control->lying_lengths)
        control->fixed_length = number(word, line);
}

static void parse_ignored(struct ignored *ignored, char **rest, const char *line)
{
    ignored->attribute = number(strtok_r(NULL, " ", rest), line);
    ignored->value = number(strtok_r(NULL, " ", rest), line) != 0;
}

static void parse_reported(struct reported *reported, char **rest, const char *line)
{
    static const char *const values[] = {"0", "1", "none"};
    static const char *const objects[] = {"public", "unwrapped"};
    reported->attribute = number(strtok_r(NULL, " ", rest), line);
    reported->value = one_of(strtok_r(NULL, " ", rest), values, 3, line);
    if (reported->value == 2)
        reported->value = -1;
    char *word = strtok_r(NULL, " ", rest);
    reported->objects = word == NULL ? ALL_OBJECTS : PUBLIC_OBJECTS + one_of(word, objects, 2, line);
}

/* How a token treats attributes otherwise (deviating.c); false if the order is another one. */
static int parse_deviation(struct control *control, const char *order, char **rest, const char *line)
{
    if (control->unwrapped_count == MOST_RULES || control->refused_count == MOST_RULES ||
        control->reported_count == MOST_RULES)
        wrong("too many orders of one kind");
    if (strcmp(order, "ignore_unwrapped") == 0)
        parse_ignored(&control->unwrapped[control->unwrapped_count++], rest, line);
    else if (strcmp(order, "refuse") == 0) {
        struct refused *refused = &control->refused[control->refused_count++];
        refused->attribute = number(strtok_r(NULL, " ", rest), line);
        refused->code = number(strtok_r(NULL, " ", rest), line);
    } else if (strcmp(order, "report") == 0)
        parse_reported(&control->reported[control->reported_count++], rest, line);
    else if (strcmp(order, "readable_copies") == 0)
        control->readable_copies = 1;
    else if (strcmp(order, "crash_if_refused") == 0)
        control->crash_if_refused = 1;
    else if (strcmp(order, "kwp_by_new_number") == 0)
        control->kwp_by_new_number = 1;
    else if (strcmp(order, "ed25519_by_oid") == 0)
        control->ed25519_by_oid = 1;
    else
        return 0;
    return 1;
}

static void parse_unknown(struct control *control, char **rest, const char *line)
{
    static const char *const manners[] = {"marked", "stops", "refused", "empty", "unwritten"};
    int at = control->unknown_count++;
    control->unknown[at] = number(strtok_r(NULL, " ", rest), line);
    control->unknown_manner[at] = one_of(strtok_r(NULL, " ", rest), manners, 5, line);
}

static void parse_messages(struct control *control, const char *word, const char *line)
{
    static const char *const kinds[] = {"caller", "random", "counted", "wrong"};
    control->messages = MESSAGES_CALLER + one_of(word, kinds, 4, line);
}

static void parse_serial(struct control *control, const char *word, const char *line)
{
    if (word == NULL || strlen(word) != sizeof control->serial - 1)
        wrong(line);
    strcpy(control->serial, word);
}

static void parse(struct orders *orders, char *words, const char *line)
{
    struct control *control = &orders->control;
    char *rest, *order = strtok_r(words, " ", &rest);
    if (order == NULL || *order == '#')
        return;
    if (control->hidden_count == MOST_RULES || control->ignored_count == MOST_RULES ||
        control->unknown_count == MOST_RULES || orders->rule_count == MOST_RULES)
        wrong("too many orders of one kind");
    if (strcmp(order, "fault") == 0)
        parse_fault(&orders->rules[orders->rule_count++], &rest, line);
    else if (strcmp(order, "iv") == 0)
        parse_iv(control, &rest, line);
    else if (strcmp(order, "no_data_objects") == 0)
        control->no_data_objects = 1;
    else if (strcmp(order, "no_serial") == 0)
        control->no_serial = 1;
    else if (strcmp(order, "labels") == 0)
        parse_labels(control, &rest, line);
    else if (strcmp(order, "hide") == 0)
        control->hidden[control->hidden_count++] = number(strtok_r(NULL, " ", &rest), line);
    else if (strcmp(order, "oaep_sha_256") == 0)
        control->oaep_sha_256 = 1;
    else if (strcmp(order, "lengths") == 0)
        parse_lengths(control, strtok_r(NULL, " ", &rest), line);
    else if (strcmp(order, "sessions") == 0) {
        control->sessions = number(strtok_r(NULL, " ", &rest), line);
        control->sessions_unreported = flag(strtok_r(NULL, " ", &rest), "untold", line);
    } else if (strcmp(order, "ignore") == 0)
        parse_ignored(&control->ignored[control->ignored_count++], &rest, line);
    else if (strcmp(order, "unknown") == 0)
        parse_unknown(control, &rest, line);
    else if (strcmp(order, "messages") == 0)
        parse_messages(control, strtok_r(NULL, " ", &rest), line);
    else if (strcmp(order, "exact_numbers") == 0)
        control->exact_numbers = 1;
    else if (strcmp(order, "serial") == 0)
        parse_serial(control, strtok_r(NULL, " ", &rest), line);
    else if (strcmp(order, "silent") == 0)
        control->silent = 1;
    else if (strcmp(order, "room") == 0)
        control->least_room = number(strtok_r(NULL, " ", &rest), line);
    else if (strcmp(order, "sign_at_most") == 0)
        control->most_signed = number(strtok_r(NULL, " ", &rest), line);
    else if (strcmp(order, "pin_tries") == 0)
        control->pin_tries = (int)number(strtok_r(NULL, " ", &rest), line);
    else if (!parse_deviation(control, order, &rest, line))
        wrong(line);
    if (strtok_r(NULL, " ", &rest) != NULL)
        wrong(line);
}

/* -- reading ---------------------------------------------------------------------------------------------------- */

static struct orders *read_orders(FILE *file)
{
    struct orders *orders = calloc(1, sizeof *orders);
    char line[256], words[256];
    if (orders == NULL || fstat(fileno(file), &orders->read_from) != 0)
        abort();
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        strcpy(words, line);
        parse(orders, words, line);
    }
    return orders;
}

static int is_same(const struct stat *one, const struct stat *other)
{
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino && one->st_size == other->st_size &&
           one->st_mtim.tv_sec == other->st_mtim.tv_sec && one->st_mtim.tv_nsec == other->st_mtim.tv_nsec;
}

static void remember_path(void)
{
    const char *named = getenv("SHIM_CONTROL");
    if (named != NULL && strlen(named) >= sizeof control_file)
        wrong(named);
    strcpy(control_file, named == NULL ? "" : named);
}

static struct orders *orders(void)
{
    const char *path = control_file;
    struct stat now;
    if (stat(path, &now) != 0)
        return &nothing;
    if (is_same(&now, &atomic_load(&current)->read_from))
        return atomic_load(&current);
    pthread_mutex_lock(&reading);
    if (!is_same(&now, &atomic_load(&current)->read_from)) {
        FILE *file = fopen(path, "r");
        if (file != NULL) {
            atomic_store(&current, read_orders(file)); /* the old one may be in use in another thread: it stays */
            fclose(file);
        }
    }
    pthread_mutex_unlock(&reading);
    return atomic_load(&current);
}

const struct control *control(void) { return &orders()->control; }

int control_path(const char *suffix, char *path, unsigned long room)
{
    return control_file[0] != '\0' && (unsigned long)snprintf(path, room, "%s%s", control_file, suffix) < room;
}

/* -- faults ------------------------------------------------------------------------------------------------------- */

/* Return once there are other orders. SHIM_CONTROL.waiting has a byte for every call that has come here. */
static void wait_for_orders(void)
{
    const struct orders *then = orders();
    char path[4096];
    int file = control_path(".waiting", path, sizeof path) ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file < 0 || write(file, ".", 1) != 1)
        abort();
    close(file);
    while (orders() == then)
        usleep(1000);
}

static CK_RV happen(const struct rule *rule)
{
    switch (rule->action) {
    case ACT_RETURN:
        return rule->argument;
    case ACT_DELAY:
        usleep((useconds_t)rule->argument);
        return CKR_OK;
    case ACT_HANG:
        for (;;)
            pause();
    case ACT_KILL:
        kill(getpid(), SIGKILL);
        break;
    case ACT_CRASH:
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
        break;
    case ACT_TRUNCATE:
        truncate_by = rule->argument;
        break;
    case ACT_WAIT:
        wait_for_orders();
    }
    return CKR_OK;
}

static int fits(const struct rule *rule, enum function function)
{
    if (rule->until_initialized && rule->beginnings != atomic_load(&beginnings))
        return 0;
    if (rule->function != FUNCTION_COUNT)
        return rule->function == function;
    return function != N_C_Initialize && function != N_C_Finalize && function != N_C_GetFunctionList;
}

CK_RV fault(enum function function, int before)
{
    if (function == N_C_Initialize && before)
        remember_path();
    struct orders *now = orders();
    if (function == N_C_Initialize && before)
        atomic_fetch_add(&beginnings, 1);
    for (int at = 0; at < now->rule_count; at++) {
        struct rule *rule = &now->rules[at];
        if (rule->before != before || !fits(rule, function))
            continue;
        unsigned long call = atomic_fetch_add(&rule->calls, 1) + 1;
        if (rule->first <= call && call <= rule->last)
            return happen(rule);
    }
    return CKR_OK;
}
