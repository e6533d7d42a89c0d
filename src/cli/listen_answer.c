/*
 * Which answer which delivery gets. Read once by main; asked by the daemon's threads.
 */
#include "listen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

/* A whole number at *text, with *text moved past it. */
static bool
take_number(const char **text, long lowest, long highest, long *number)
{
    char *end;

    if (**text < '0' || **text > '9')
        return false;
    errno = 0;
    *number = strtol(*text, &end, 10);
    *text = end;
    return errno == 0 && *number >= lowest && *number <= highest;
}

/* One part at *text: "503", "reset*2", "hang". */
static bool
take_answer(const char **text, Answer *answer)
{
    long status = 0;

    *answer = (Answer){.kind = ANSWER_STATUS, .count = 1};
    if (strncmp(*text, "reset", 5) == 0 || strncmp(*text, "hang", 4) == 0) {
        answer->kind = **text == 'r' ? ANSWER_RESET : ANSWER_HANG;
        *text += **text == 'r' ? 5 : 4;
    } else if (!take_number(text, 200, 599, &status)) {
        return false;
    }
    answer->status = (unsigned int)status;
    if (**text == '*') {
        *text += 1;
        return take_number(text, 1, 1000000000, &answer->count);
    }
    return true;
}

bool
listen_read_answers(Listen *listen, const char *text)
{
    const char *rest = text;

    do {
        if (listen->answer_count == LISTEN_MAX_ANSWERS) {
            message_error("--answer has more than %d parts", LISTEN_MAX_ANSWERS);
            return false;
        }
        if (!take_answer(&rest, &listen->answers[listen->answer_count++]) || (*rest != '\0' && *rest != ',')) {
            message_error(
                "--answer must be status codes from 200 to 599, reset or hang, such as \"503*3,reset,200\", not \"%s\"",
                text);
            return false;
        }
    } while (*rest++ == ',');
    return true;
}

Answer
listen_answer(const Listen *listen, long ordinal)
{
    int which = 0;

    if (listen->answer_count == 0)
        return (Answer){.kind = ANSWER_STATUS, .status = MHD_HTTP_OK};
    while (which < listen->answer_count - 1 && ordinal > listen->answers[which].count)
        ordinal -= listen->answers[which++].count;
    return listen->answers[which];
}

bool
listen_can_wait(const Listen *listen)
{
    bool waits = listen->delay_ms > 0 || listen->forward != NULL;

    for (int i = 0; i < listen->answer_count; i++)
        waits = waits || listen->answers[i].kind == ANSWER_HANG;
    return waits;
}
