/* anthropic: what the files of the Messages dialect share. */
#ifndef HADAL_SERVE_ANTHROPIC_H
#define HADAL_SERVE_ANTHROPIC_H

#include "serve/api.h"

int anthropic_read(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e);

#endif
