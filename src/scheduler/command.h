/*
 * command.h: how the command of a user's job is executed, in the worker that is connected as the job's role.
 */
#ifndef APAPACHO_COMMAND_H
#define APAPACHO_COMMAND_H

#include "postgres.h"

#include "tcop/dest.h"

#define COMMAND_MAX_BYTES (1024 * 1024)

typedef struct CommandResult {
    int statements;                   /* how many there were */
    uint64 rows;                      /* returned or changed, by all of them */
    char tag[COMPLETION_TAG_BUFSIZE]; /* of the last one, such as INSERT 0 3 */
} CommandResult;

/*
 * ERROR unless the text may be a job's command: there is a statement in it, it is parsed without a syntax error, is not
 * too long, and does not COPY from or to a client. Within a transaction, in any process.
 */
void command_check(const char *sql);

/*
 * Executes the text as the server does what a client sends at once: a statement by itself may be one that no
 * transaction block allows (VACUUM, CALL of a procedure that commits); several are one transaction unless they say
 * BEGIN and COMMIT themselves. Rows are counted and thrown away. It is the session's user who does it all, under the
 * session's settings (statement_timeout, log_statement and the like too); `sql` is his activity in pg_stat_activity
 * meanwhile.
 *
 * Called outside of any transaction and leaves none: one that the text leaves open is rolled back and an ERROR. So is
 * whatever goes wrong, after which the transaction is over already. CurrentMemoryContext must outlive transactions;
 * what is allocated here is freed.
 */
void command_execute(const char *sql, CommandResult *result);

/*
 * Makes the session as good as new for the next command of the same role, as DISCARD ALL does. An ERROR leaves no
 * transaction behind; the process is then not to be used for another command.
 */
void command_reset_session(void);

#endif
