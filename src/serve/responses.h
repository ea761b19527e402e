/* responses: what the files of the Responses dialect share. */
#ifndef HADAL_SERVE_RESPONSES_H
#define HADAL_SERVE_RESPONSES_H

#include "serve/api.h"

/* responses_read.c */
int responses_read(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e);
/* Whether a call of this name goes out as a custom tool's. */
bool responses_is_custom(const struct api_req *q, const char *name);

/* responses_write.c: each writes one value, under key where it takes one. */
/* An item's id follows from its place, so that every event of it says the same. id: 64 bytes. */
void responses_item_id(const struct api_answer *a, int index, enum api_part_kind kind, char *id);
/* The text inside {"input": TEXT}. */
void responses_custom_input(const struct api_part *p, const char *key, struct buf *out);
void responses_tokens(const struct buf *tokens, struct buf *out); /* "logprobs"; tokens may be NULL */
void responses_content(const struct api_answer *a, const struct api_part *p, const char *key, bool complete,
                       struct buf *out);
void responses_item(const struct api_answer *a, int index, const struct api_part *p, const char *key, bool complete,
                    struct buf *out);
const char *responses_state(const struct api_answer *a, bool failed);
/* The response object; code and message: of its error, NULL when there is none. */
void responses_object(const struct api_answer *a, const char *key, const char *code, const char *message, struct buf *out);
void responses_whole(const struct api_answer *a, struct buf *out);

#endif
