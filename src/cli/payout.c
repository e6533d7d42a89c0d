/*
 * The commands `payout ...`: what creators are due, and whether the books agree. Runs in the main thread; reads only.
 */
#include <stdio.h>

#include "client.h"
#include "commands.h"
#include "show.h"

const Option payout_reconcile_options[] = {
    {"since", 's', OPTION_TEXT, "TIME", "look for the events of payouts made since then (30 days ago)", 0, 0},
    {0},
};

static const char preview_sql[] =
    "SELECT creator_id AS \"creatorId\", payable, reason, transactions, amount, held_amount AS \"heldAmount\","
    " next_release_at AT TIME ZONE 'UTC' AS \"nextReleaseAt\" FROM @extschema@.apapacho_payout_preview()";

static const char reconcile_sql[] =
    "SELECT kind, creator_id AS \"creatorId\", payout_id AS \"payoutId\", transaction_id AS \"transactionId\", detail"
    " FROM @extschema@.apapacho_payout_reconcile($1)";

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
    const char *values[] = {option_text(line, "since")};
    Session session;
    int differences = 0;
    ExitCode code = client_open(&session, line);

    if (code == EXIT_DONE)
        code = show_rows(&session, line, reconcile_sql, 1, values, "No differences.", &differences);
    session_close(&session);
    return code == EXIT_DONE && differences > 0 ? EXIT_FAILED : code;
}
