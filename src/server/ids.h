/*
 * ids.h: identifiers for rows of the user's tables, as their ORM writes them: uuid strings. Ours are time-ordered (RFC
 * 9562, version 7), which keeps new index entries together. In SQL: apapacho_jobs.uuid_v7(), which returns text.
 */
#ifndef APAPACHO_IDS_H
#define APAPACHO_IDS_H

#define UUID_TEXT_SIZE 37

/* Writes 36 characters and a NUL. ERROR when the system has no randomness. */
void uuid_v7(char text[UUID_TEXT_SIZE]);

#endif
