/*
 * divide.c: does work on many rows of the user's so that an error with one of them stops none of the others: a batch
 * that fails is undone, and its halves are tried, down to the ones that cannot be done. No subtransactions: each try is
 * a transaction of its own.
 *
 * Runs in the workers of the jobs `payout` and `retry`.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/elog.h"
#include "utils/memutils.h"

#include "payout/internal.h"

#define CONFLICT_ATTEMPTS 3 /* for a batch that runs into deadlocks or serialization failures */

typedef enum Blame {
    BLAME_ONE,     /* a value, a constraint, a trigger's exception: the data of one of them */
    BLAME_UNCLEAR, /* privileges, names and types: ours, which concern all, or those of a trigger's code */
    BLAME_ALL      /* connections, resources, cancellation, the system, conflicts with other transactions */
} Blame;

static Blame
blame(int sqlstate)
{
    static const struct {
        const char *class;
        Blame blame;
    } classes[] = {
        {"08", BLAME_ALL},     {"0A", BLAME_UNCLEAR}, {"0B", BLAME_UNCLEAR}, {"25", BLAME_ALL}, {"26", BLAME_ALL},
        {"28", BLAME_ALL},     {"3D", BLAME_ALL},     {"3F", BLAME_UNCLEAR}, {"40", BLAME_ALL}, {"42", BLAME_UNCLEAR},
        {"53", BLAME_ALL},     {"57", BLAME_ALL},     {"58", BLAME_ALL},     {"72", BLAME_ALL}, {"F0", BLAME_ALL},
        {"HV", BLAME_UNCLEAR}, {"XX", BLAME_ALL},
    };
    const char *code = unpack_sql_state(sqlstate);

    if (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE || sqlstate == ERRCODE_OBJECT_IN_USE)
        return BLAME_ALL;
    for (int i = 0; i < lengthof(classes); i++) {
        if (strncmp(code, classes[i].class, 2) == 0)
            return classes[i].blame;
    }
    return BLAME_ONE;
}

/* Does the step; an error is caught, its transaction undone, and returned (in the work's memory); NULL when there was
 * none. */
static ErrorData *
attempt(const PayoutWork *work, char **ids, int count)
{
    ErrorData *volatile error = NULL;

    PG_TRY();
    {
        work->step(work->state, ids, count);
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(work->memory);
        error = CopyErrorData();
        FlushErrorState();
        xact_abort();
    }
    PG_END_TRY();
    MemoryContextSwitchTo(work->memory);
    return error;
}

/* What is being divided: one batch. */
typedef struct Division {
    const PayoutWork *work;
    int not_of_all; /* the error that has been found not to concern all; 0: none */
} Division;

/* Whether the error concerns all, whatever the rows: then no row at all runs into it too. Asked once for a batch. */
static bool
concerns_all(Division *division, const ErrorData *error)
{
    Blame to_blame = blame(error->sqlerrcode);
    ErrorData *without_rows;

    if (to_blame != BLAME_UNCLEAR)
        return to_blame == BLAME_ALL;
    if (error->sqlerrcode == division->not_of_all)
        return false;
    without_rows = attempt(division->work, NULL, 0);
    if (without_rows != NULL) {
        FreeErrorData(without_rows);
        return true;
    }
    division->not_of_all = error->sqlerrcode;
    return false;
}

/*
 * How often to try, since another try may see what this one ran into. What somebody else has put into a payout
 * meanwhile is a duplicate key at first; a part of a batch that had one is another try as it is, unless it is the last.
 */
static int
attempts(int sqlstate, bool is_part, int count)
{
    if (sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE || sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED)
        return CONFLICT_ATTEMPTS;
    return sqlstate == ERRCODE_UNIQUE_VIOLATION && (!is_part || count == 1) ? CONFLICT_ATTEMPTS : 1;
}

/* One that cannot be done: told and kept. */
static void
give_up(const PayoutWork *work, char *id, const ErrorData *error)
{
    ereport(WARNING, (errcode(error->sqlerrcode), errmsg("%s \"%s\": %s", work->failure, id, error->message),
                      errdetail_log("SQLSTATE %s", unpack_sql_state(error->sqlerrcode)), errhidestmt(true),
                      errhidecontext(true)));
    if (work->failed != NULL)
        work->failed(work->state, id, error);
}

static int
divide(Division *division, char **ids, int count, bool is_part)
{
    ErrorData *error;

    for (int tries = 1;; tries++) {
        error = attempt(division->work, ids, count);
        if (error == NULL)
            return 0;
        if (tries >= attempts(error->sqlerrcode, is_part, count))
            break;
        FreeErrorData(error);
        CHECK_FOR_INTERRUPTS();
    }
    if (concerns_all(division, error))
        ReThrowError(error);

    if (count == 1)
        give_up(division->work, ids[0], error);
    FreeErrorData(error);
    if (count == 1)
        return 1;
    CHECK_FOR_INTERRUPTS();
    return divide(division, ids, count / 2, true) + divide(division, ids + count / 2, count - count / 2, true);
}

int
payout_divide(const PayoutWork *work, char **ids, int count)
{
    Division division = {.work = work};

    return divide(&division, ids, count, false);
}
