/* Any text as a chat request through the JSON loader and the chat encoder, in every mode: no crash, and the spans of a
 * prompt cover it. What the loader takes it takes again after it was printed. */
#include "text/text.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok)
        abort();
}

static void encode(const json_t *request, const struct chat_options *o)
{
    struct chat_prompt p;
    struct err e = {0};
    const json_t *messages = json_is_array(request) ? request : json_object_get(request, "messages");
    int rc = chat_encode(&p, messages, json_object_get(request, "tools"), json_object_get(request, "response_format"),
                         o, &e);
    require(rc == HD_OK || (rc == HD_EARG && e.msg[0] != '\0'));
    size_t at = 0;
    for (size_t i = 0; rc == HD_OK && i < p.n_spans; i++) {
        require(p.spans[i].start == at && p.spans[i].end > at);
        at = p.spans[i].end;
    }
    require(rc != HD_OK || (at == p.text.len && utf8_valid_prefix(p.text.data, p.text.len) == p.text.len));
    chat_prompt_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *request = json_load_exact((const char *)data, size, "input", true, NULL);
    if (request == NULL)
        return 0;
    struct buf printed = {0}, again = {0};
    json_dump_python(request, &printed);
    json_t *v = json_load_exact(printed.data, printed.len, "printed", true, NULL);
    require(v != NULL);
    json_dump_python(v, &again);
    require(again.len == printed.len);
    json_decref(v);
    buf_free(&printed);
    buf_free(&again);
    for (int mode = 0; mode < 8; mode++) {
        struct chat_options o = {.thinking = mode & 1,
                                 .keep_thinking = mode & 2,
                                 .effort = EFFORT_MAX,
                                 .profile = mode & 4 ? CHAT_OFFICIAL : CHAT_PREVIEW};
        encode(request, &o);
    }
    json_decref(request);
    return 0;
}
