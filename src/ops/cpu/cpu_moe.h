/* One step of the experts, its rows grouped by expert: what the portable and the fast path of moe share. */
#ifndef HADAL_OPS_CPU_MOE_H
#define HADAL_OPS_CPU_MOE_H

#include "ops/cpu/cpu.h"

/* Pair p = (row, slot): slots 0..k-1 are routed, slot k is the shared expert. Pairs are laid out grouped by expert. */
struct moe_job {
    struct cpu_dev *c;
    const struct op_moe *o;
    const float *x;           /* [N][D] quantised when the device quantises */
    int n_groups;             /* experts that have at least one row, the shared expert last */
    const int32_t *group_expert, *group_start; /* start[n_groups] = number of pairs */
    const int32_t *pair_row;  /* [pairs] */
    const float *pair_weight; /* [pairs] */
    const int32_t *pair_of;   /* [N][k+1] -> pair */
    int tasks_h, tasks_d;     /* row blocks of one expert in each phase */
};

/* Expert e; n_experts names the shared one. */
const struct op_expert *moe_expert(const struct op_moe *o, int32_t e);
/* silu(min(g, limit)) * clamp(u, -limit, limit); limit 0: no clamp. */
float moe_swiglu(float g, float u, float limit);

/* The fast path: from the grouped pairs to o->out [pairs][D] (sums not yet rounded: the combination rounds). */
bool fast_has_moe(const struct op_moe *o);
void fast_moe(struct moe_job *j);

#endif
