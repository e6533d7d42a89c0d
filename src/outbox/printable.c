/*
 * printable.c: event types and ids are any text, but headers and log lines are not. Pure computation, in the worker of
 * the job `outbox`.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "outbox/hand.h"

char *
outbox_printable(const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *end = text + strlen(text);
    StringInfoData out;

    initStringInfo(&out);
    for (const char *at = text; at < end; at++) {
        unsigned char byte = (unsigned char)*at;
        bool plain = byte > ' ' && byte < 0x7f;

        if (plain || (byte == ' ' && at > text && at < end - 1)) {
            appendStringInfoCharMacro(&out, *at);
        } else {
            appendStringInfoCharMacro(&out, '%');
            appendStringInfoCharMacro(&out, digits[byte >> 4]);
            appendStringInfoCharMacro(&out, digits[byte & 15]);
        }
    }
    return out.data;
}
