/*
 * timer.c: the floor under the scheduling bench: how late a process is that does nothing but sleep until a time.
 *
 *   timer SECONDS
 *
 * Sleeps until the middle of each second (the jobs measured beside it are due at the start of one) and prints how many
 * milliseconds after it the sleep has ended, one a line. Ends after SECONDS, or when it is told to.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define HALF_SECOND 500000000L

int
main(int argc, char **argv)
{
    struct timespec until;
    struct timespec now;
    long seconds;

    if (argc != 2 || (seconds = atol(argv[1])) < 1) {
        fprintf(stderr, "usage: timer SECONDS\n");
        return 2;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec = HALF_SECOND;
    for (; seconds > 0; seconds--) {
        int error;

        until.tv_sec++;
        do {
            error = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL);
        } while (error == EINTR);
        if (error != 0)
            return 1;
        clock_gettime(CLOCK_REALTIME, &now);
        printf("%.3f\n", (double)(now.tv_sec - until.tv_sec) * 1e3 + (double)(now.tv_nsec - until.tv_nsec) / 1e6);
        fflush(stdout);
    }
    return 0;
}
