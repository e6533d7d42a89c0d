/*
 * Time zones by the C library. Runs in the main thread, since the zone is the process's environment variable TZ.
 */
#include "zone.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The C library takes any name it does not know for UTC, so the name is looked up before. */
static bool
is_known(const char *name)
{
    const char *directory = getenv("TZDIR");
    Text path = {0};
    bool known;

    if (strcmp(name, "UTC") == 0 || strcmp(name, "GMT") == 0)
        return true;
    if (*name == '\0' || *name == '/' || *name == '.' || strstr(name, "..") != NULL ||
        strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-/.") != strlen(name))
        return false;
    text_format(&path, "%s/%s", directory != NULL ? directory : "/usr/share/zoneinfo", name);
    known = access(path.data, R_OK) == 0;
    if (known) {
        FILE *file = fopen(path.data, "r");
        char magic[4] = "";

        /* The database has tables and directories beside the zones. */
        known = file != NULL && fread(magic, 1, 4, file) == 4 && memcmp(magic, "TZif", 4) == 0;
        if (file != NULL)
            fclose(file);
    }
    text_free(&path);
    return known;
}

static int32_t
utc_offset(void *context, int64_t utc)
{
    time_t instant = (time_t)utc;
    struct tm local;

    (void)context;
    return localtime_r(&instant, &local) != NULL ? (int32_t)local.tm_gmtoff : 0;
}

bool
zone_use(const char *name, CronZone *zone)
{
    if (name != NULL) {
        if (!is_known(name))
            return false;
        setenv("TZ", name, 1);
    }
    tzset();
    *zone = (CronZone){utc_offset, NULL};
    return true;
}

void
zone_add_time(Text *text, int64_t instant, bool iso)
{
    time_t time = (time_t)instant;
    struct tm local;
    long minutes;

    if (localtime_r(&time, &local) == NULL)
        abort();
    minutes = labs(local.tm_gmtoff) / 60;
    text_format(text, "%04d-%02d-%02d%c%02d:%02d:%02d", local.tm_year + 1900, local.tm_mon + 1, local.tm_mday,
                iso ? 'T' : ' ', local.tm_hour, local.tm_min, local.tm_sec);
    if (iso && local.tm_gmtoff == 0) {
        text_add(text, "Z");
        return;
    }
    text_format(text, "%c%02ld", local.tm_gmtoff < 0 ? '-' : '+', minutes / 60);
    if (iso || minutes % 60 != 0)
        text_format(text, ":%02ld", minutes % 60);
}

const char *
zone_name(const char *name)
{
    const char *variable = getenv("TZ");

    if (name != NULL)
        return name;
    return variable != NULL && *variable != '\0' ? variable : tzname[0];
}
