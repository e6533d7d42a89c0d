/*
 * environment.h: the seed's environment variables, which are the defaults of the settings (spec section 2).
 */
#ifndef APAPACHO_ENVIRONMENT_H
#define APAPACHO_ENVIRONMENT_H

#include "postgres.h"

/*
 * The value of the environment variable, or `otherwise` when it is not set. A value may stand as it does in the seed's
 * .env file, which some container runtimes pass on raw: blanks around it, one pair of quotes and a comment (` # ...`)
 * behind it are dropped. `secret` values lose no comment unless they are nothing but one. The result lives as long as
 * the process.
 */
const char *environment_string(const char *name, const char *otherwise, bool secret);

/* The same as a boolean or an integer; FATAL, naming the variable, when it is none or out of range. */
bool environment_bool(const char *name, bool otherwise);
int environment_int(const char *name, int otherwise, int minimum, int maximum);

#endif
