/* The folder of a test: made anew, named uniquely, removed with all it holds. */
#ifndef TESTS_UTIL_SCRATCH_H
#define TESTS_UTIL_SCRATCH_H

#include "base/base.h"

/* Makes the folder below /tmp and removes it; one at a time. Set-up and tear-down functions of cmocka: 0 on success. The
 * state is not touched and may be NULL. */
int scratch_make(void **state);
int scratch_remove(void **state);

/* The same folder in the build folder ($B), which is on a disk: /tmp may be memory, where O_DIRECT and fsync mean little. */
void scratch_make_on_disk(void);

/* The folder, without a final slash, and the path of a name in it: valid until the fifth call after. */
const char *scratch_dir(void);
char *scratch_path(const char *name);

/* Runs a command of at most 1,023 bytes in the shell; the test fails, and names it, if it does. */
void shell(const char *fmt, ...) PRINTF_LIKE(1, 2);

#endif
