/* The levels of the portable kernels; kern.c climbs this ladder. */
#ifndef HADAL_KERN_DECL_H
#define HADAL_KERN_DECL_H

struct kern;
extern const struct kern kern_ref, kern_avx2, kern_avx512, kern_neon;

#endif
