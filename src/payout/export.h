/*
 * export.h: what the two files about payment files share. Both run in backends, with SPI connected.
 */
#ifndef APAPACHO_PAYOUT_EXPORT_H
#define APAPACHO_PAYOUT_EXPORT_H

#include "postgres.h"

#include "fmgr.h"

/*
 * Runs a statement on the extension's own tables as the extension's owner. It has one row: its first column, copied to
 * `memory`.
 */
Datum payout_file_statement(const char *sql, int count, Oid *types, Datum *values, const char *nulls, bool read_only,
                            MemoryContext memory, bool *is_null);

/* The same for any number of rows, which become rows of the function's result (InitMaterializedSRF). */
void payout_file_return(FunctionCallInfo fcinfo, const char *sql, int count, Oid *types, Datum *values,
                        const char *nulls, bool read_only);

/*
 * Warns when payouts in these files (a text[]) have come to another end since: a bank that gets such a file pays what
 * may be paid again.
 */
void payout_file_warn(Datum ids, bool read_only);

#endif
