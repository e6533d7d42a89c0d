/*
 * ids.c: time-ordered uuids (RFC 9562 section 5.7). Runs in any backend; keeps the last millisecond and a counter per
 * process.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "server/compat.h"
#include "server/ids.h"

PG_FUNCTION_INFO_V1(apapacho_uuid_v7);

#define RANDOM_IDS 64 /* so many get their random bytes at once: asking for them costs more than all else */

/* The random bytes of one id; the process's own. */
static const uint8 *
next_random(void)
{
    static uint8 bytes[RANDOM_IDS][16];
    static int used = RANDOM_IDS;

    if (used == RANDOM_IDS) {
        if (!pg_strong_random(bytes, sizeof(bytes)))
            ereport(ERROR,
                    (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random values for an identifier")));
        used = 0;
    }
    return bytes[used++];
}

/*
 * 48 bits of Unix milliseconds, then 12 bits that count within the millisecond (method 1 of section 6.2: the order of
 * one process's ids is kept), then 62 random bits.
 */
void
uuid_v7(char text[UUID_TEXT_SIZE])
{
    static uint64 last_ms = 0;
    static uint32 counter = 0;
    static const char digits[] = "0123456789abcdef";
    uint8 bytes[16];
    uint64 ms;
    char *out = text;

    memcpy(bytes, next_random(), sizeof(bytes));
    ms = (uint64)((GetCurrentTimestamp() / 1000) +
                  (int64)(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000);
    if (ms > last_ms) {
        last_ms = ms;
        counter = bytes[7] & 0x7f; /* a random start with room to count upwards */
    } else if (++counter > 0xfff) {
        last_ms++; /* more than 4,000 within a millisecond: borrow from the next */
        counter = 0;
    }

    for (int i = 0; i < 6; i++)
        bytes[i] = (uint8)(last_ms >> (40 - 8 * i));
    bytes[6] = 0x70 | (uint8)(counter >> 8);
    bytes[7] = (uint8)counter;
    bytes[8] = 0x80 | (bytes[8] & 0x3f);

    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = '\0';
}

Datum
apapacho_uuid_v7(PG_FUNCTION_ARGS)
{
    char text[UUID_TEXT_SIZE];

    uuid_v7(text);
    PG_RETURN_TEXT_P(cstring_to_text_with_len(text, UUID_TEXT_SIZE - 1));
}
