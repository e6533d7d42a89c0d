/*
 * unit.h
 *
 * The assertions of the plain C unit tests: each is one program that counts its checks and ends
 * with "return unit_report();". A failed check is reported and the program goes on.
 *
 * Include it from one .c file of the program only: the counters are its own.
 */
#ifndef APAPACHO_UNIT_H
#define APAPACHO_UNIT_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int unit_passed;
static int unit_failed;

static inline bool
unit_check(bool holds, const char *file, int line, const char *condition)
{
    if (holds) {
        unit_passed++;
    } else {
        unit_failed++;
        printf("%s:%d: failed: %s\n", file, line, condition);
    }
    return holds;
}

static inline bool
unit_check_string(const char *actual, const char *expected, const char *file, int line)
{
    bool same = actual == expected || (actual != NULL && expected != NULL && strcmp(actual, expected) == 0);

    if (!unit_check(same, file, line, "strings are equal")) {
        printf("    actual:   %s\n", actual == NULL ? "(null)" : actual);
        printf("    expected: %s\n", expected == NULL ? "(null)" : expected);
    }
    return same;
}

/* Both give whether the check held, so that a test can add what it knows about a failure. */
#define CHECK(condition) unit_check((condition), __FILE__, __LINE__, #condition)
#define CHECK_STR(actual, expected) unit_check_string((actual), (expected), __FILE__, __LINE__)

/* Prints the totals as the last line; the result is the program's exit status. */
static inline int
unit_report(void)
{
    printf("%d passed, %d failed\n", unit_passed, unit_failed);
    return unit_failed == 0 ? 0 : 1;
}

#endif
