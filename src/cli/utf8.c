/*
 * Well-formed UTF-8. Any thread.
 */
#include "utf8.h"

size_t
utf8_sequence_length(const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;
    unsigned char lowest = 0x80;
    unsigned char highest = 0xbf;
    size_t length;

    if (byte[0] < 0x80)
        return 1;
    if (byte[0] < 0xc2 || byte[0] > 0xf4)
        return 0;
    length = byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : 4;
    if (byte[0] == 0xe0)
        lowest = 0xa0;
    else if (byte[0] == 0xed)
        highest = 0x9f;
    else if (byte[0] == 0xf0)
        lowest = 0x90;
    else if (byte[0] == 0xf4)
        highest = 0x8f;
    if (byte[1] < lowest || byte[1] > highest)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if ((byte[i] & 0xc0) != 0x80)
            return 0;
    }
    return length;
}

bool
utf8_is_valid(const char *text)
{
    for (size_t length; *text != '\0'; text += length) {
        length = utf8_sequence_length(text);
        if (length == 0)
            return false;
    }
    return true;
}
