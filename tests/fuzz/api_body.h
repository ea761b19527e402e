/* What the targets of the dialects share: any text as the body of a request is read, or refused with a sentence in
 * UTF-8 in the dialect's own JSON, never anything else. */
#ifndef HADAL_TESTS_FUZZ_API_BODY_H
#define HADAL_TESTS_FUZZ_API_BODY_H

#include "serve/api.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void require(bool ok)
{
    if (!ok)
        abort();
}

static inline void api_body_read(const struct dialect *d, const json_t *body, const struct tokenizer *t, int mode)
{
    struct api_env env = {.model = "m", .fingerprint = "f", .context_tokens = 1000, .any_model = mode & 1,
                          .strict_replay = mode & 1, .free_sampling = mode & 2, .tokenizer = t};
    struct api_req q = {.for_count = mode & 2};
    struct api_error e = {0};
    struct buf out = {0};
    int rc = d->read(&q, body, &env, &e);
    require((rc == 0) == (e.kind == API_FINE) && (rc != 0 || json_is_object(q.gen)));
    if (rc != 0) {
        d->error(&e, "req_1", &out);
        require(e.msg[0] != '\0' && d->status(&e) >= 400 && utf8_valid_prefix(out.data, out.len) == out.len);
        json_t *v = json_loadb(out.data, out.len, 0, NULL);
        require(v != NULL);
        json_decref(v);
    }
    buf_free(&out);
    api_req_free(&q);
}

static inline void api_body_run(const struct dialect *d, const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    if (t == NULL) {
        tokenizer_open(&t, "models/tiny", NULL); /* fuzz programs run at the top of the tree */
        require(t != NULL);
    }
    json_t *body = json_load_exact((const char *)data, size, "body", false, NULL);
    if (json_is_object(body))
        for (int mode = 0; mode < 4; mode++)
            api_body_read(d, body, t, mode);
    json_decref(body);
}

#endif
