/* A tokenizer for made-up checkpoints: a token for each byte and the control tokens of the chat format, no merges. So the
 * whole engine, its server and its benchmarks run over such a model; what it says has no meaning. */
#include "model/synth.h"

#include <stdio.h>

static const char *const control[] = {"<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜",
                                      "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"};
static const char *const first[] = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"};

enum { N_BYTES = 256, FIRST_CONTROL = COUNT_OF(first) + N_BYTES };

/* The byte-level alphabet: printable bytes of Latin-1 stand for themselves, the others for U+0100 and up, in order. */
static void add_byte(struct buf *b, int byte, int *n_other)
{
    bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    int c = itself ? byte : 0x100 + (*n_other)++;
    if (c == '"' || c == '\\')
        buf_printf(b, "\\%c", c);
    else if (c < 0x80)
        buf_printf(b, "%c", c);
    else
        buf_printf(b, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 0x3f));
}

static void add_special(struct buf *b, const char *text, int id)
{
    buf_printf(b, "%s\n  {\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                  "\"normalized\": false, \"special\": true}", id > 0 ? "," : "", id, text);
}

bool synth_tokenizer_json(int vocab_size, struct buf *out)
{
    int n_other = 0;
    if (vocab_size < FIRST_CONTROL + (int)COUNT_OF(control))
        return false;
    buf_str(out, "{\n \"version\": \"1.0\",\n \"added_tokens\": [");
    for (int i = 0; i < (int)COUNT_OF(first); i++)
        add_special(out, first[i], i);
    for (int i = 0; i < (int)COUNT_OF(control); i++)
        add_special(out, control[i], FIRST_CONTROL + i);
    buf_str(out, "],\n \"normalizer\": null,\n \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                 "\"add_prefix_space\": false, \"trim_offsets\": false, \"use_regex\": false},\n"
                 " \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false},\n"
                 " \"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {");
    for (int i = 0; i < N_BYTES; i++) {
        buf_str(out, i > 0 ? ", \"" : "\"");
        add_byte(out, i, &n_other);
        buf_printf(out, "\": %d", (int)COUNT_OF(first) + i);
    }
    buf_str(out, "}}\n}\n");
    return true;
}
