#include "base/mutant.h"

#ifdef HADAL_MUTANTS
#include <stdlib.h>

int hadal_mutant;

/* The only environment variable below src/bin, and only in the mutation build: every test program must obey it. */
__attribute__((constructor)) static void read_mutant(void)
{
    const char *s = getenv("HADAL_MUTANT");
    hadal_mutant = s == NULL ? 0 : (int)strtol(s, NULL, 10);
}
#else
typedef int mutant_c_is_empty_in_normal_builds;
#endif
