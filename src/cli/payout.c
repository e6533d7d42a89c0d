/*
 * The commands `payout ...`: what creators are due, and whether the books agree. Runs in the main thread; reads only.
 */
#include <stdio.h>

#include "client.h"
#include "commands.h"
#include "show.h"

static const char preview_sql[] =
    "SELECT creator_id AS \"creatorId\", payable, reason, transactions, amount, held_amount AS \"heldAmount\","
    " next_release_at AT TIME ZONE 'UTC' AS \"nextReleaseAt\" FROM @extschema@.apapacho_payout_preview()";

ExitCode
command_payout_preview(const CommandLine *line)
{
    Session session;
    ExitCode code = client_open(&session, line);

    if (code == EXIT_DONE)
        code = show_rows(&session, line, preview_sql, 0, NULL, "No creator has unpaid transactions.", NULL);
    session_close(&session);
    return code;
}

ExitCode
command_payout_eligibility(const CommandLine *line)
{
    Session session;
    ExitCode code = client_open(&session, line);

    if (code == EXIT_DONE)
        code = show_document(&session, line, "SELECT @extschema@.apapacho_payout_eligibility($1)", 1, line->arguments);
    session_close(&session);
    return code;
}

ExitCode
command_payout_reconcile(const CommandLine *line)
{
    Session session;
    int differences = 0;
    ExitCode code = client_open(&session, line);

    if (code == EXIT_DONE)
        code = show_rows(&session, line, "SELECT * FROM @extschema@.apapacho_payout_reconcile()", 0, NULL,
                         "No differences.", &differences);
    session_close(&session);
    return code == EXIT_DONE && differences > 0 ? EXIT_FAILED : code;
}
