/* Deliberate bugs, for the mutation tests only: each row of the bug catalogue in docs/TESTING.md is one MUTANT(n) at the
 * place where other engines went wrong. In a normal build the macro is the constant 0 and the compiler removes the branch;
 * `make mutants` builds with -DHADAL_MUTANTS and shows that some test fails for every n. */
#ifndef HADAL_MUTANT_H
#define HADAL_MUTANT_H

#ifdef HADAL_MUTANTS
extern int hadal_mutant; /* 0: none; set from HADAL_MUTANT before main() (mutant.c) */
#define MUTANT(n) (hadal_mutant == (n))
#else
#define MUTANT(n) 0
#endif

#endif
