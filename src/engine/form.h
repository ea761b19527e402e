/* form: the grammar of one reply, as the generation follows it token by token. */
#ifndef HADAL_ENGINE_FORM_H
#define HADAL_ENGINE_FORM_H

#include "engine/engine.h"

struct form;
struct form *form_open(struct grammar *g, int n_vocab, const int32_t *eos, int n_eos); /* NULL: no memory */
struct grammar *form_grammar(const struct form *f); /* never changes; any thread */
void form_close(struct form **f);
/* The tokens that may come, end tokens among them when the reply may end. thinking: all but the end. Until the next
 * call. */
const uint64_t *form_mask(struct form *f, bool thinking);
/* Takes a token of the mask behind the thinking part. */
void form_accept(struct form *f, int32_t token);
bool form_must_end(struct form *f);

#endif
