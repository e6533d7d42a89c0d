/*
 * Texts for a terminal. Any thread; the locale's character type tells what a character is and how wide.
 */
#include "printable.h"

#include <limits.h>
#include <wchar.h>
#include <wctype.h>

bool
printable_next(const char *string, size_t *bytes, int *width)
{
    mbstate_t state = {0};
    wchar_t wide;
    size_t length = mbrtowc(&wide, string, MB_LEN_MAX, &state);

    if (length == (size_t)-1 || length == (size_t)-2 || length == 0) {
        *bytes = 1;
        *width = 1;
        return false;
    }
    *bytes = length;
    *width = wcwidth(wide);
    if (*width < 0 || (wide >= 0x80 && wide < 0xa0) || (wide >= 0x202a && wide <= 0x202e) ||
        (wide >= 0x2066 && wide <= 0x2069)) {
        *width = 1;
        return false;
    }
    return true;
}

void
text_add_printable(Text *text, const char *string)
{
    while (*string != '\0') {
        size_t bytes;
        int width;

        if (printable_next(string, &bytes, &width))
            text_add_bytes(text, string, bytes);
        else
            text_add(text, "?");
        string += bytes;
    }
}
