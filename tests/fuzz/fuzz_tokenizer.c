/* The tokenizer: a file from outside, then a text. The input is the file up to the first byte 0xff, the text after it; a
 * file that starts with '{' is a tokenizer.json, any other a rank file. Whatever loads must give every text back. */
#include "text/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int ranks_open(struct tokenizer **t, const char *file, size_t n, struct err *e)
{
    int fd = memfd_create("ranks", 0);
    if (fd < 0 || write(fd, file, n) != (ssize_t)n)
        abort();
    char *path = xasprintf("/proc/self/fd/%d", fd);
    int rc = tokenizer_open(t, path, e);
    free(path);
    close(fd);
    return rc;
}

static void round_trip(const struct tokenizer *t, const char *text, size_t n, bool match_added)
{
    struct ids ids = {0};
    struct buf back = {0};
    struct err e = {0};
    int rc = tokenizer_encode(t, text, n, match_added, &ids, &e);
    if (rc == HD_OK) {
        tokenizer_decode(t, ids.data, ids.n, false, &back);
        if (back.len != n || (n != 0 && memcmp(back.data, text, n) != 0))
            abort();
    } else if (e.msg[0] == '\0') {
        abort();
    }
    buf_free(&back);
    ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size != 0 ? memchr(data, 0xff, size) : NULL;
    size_t n = end != NULL ? (size_t)(end - data) : size;
    const char *text = end != NULL ? (const char *)end + 1 : "";
    size_t n_text = end != NULL ? size - n - 1 : 0;
    struct tokenizer *t;
    struct err e = {0};
    int rc = n != 0 && data[0] == '{' ? tokenizer_parse(&t, (const char *)data, n, "fuzz", &e)
                                      : ranks_open(&t, (const char *)data, n, &e);
    if (rc != HD_OK && (t != NULL || e.msg[0] == '\0'))
        abort();
    if (rc == HD_OK) {
        round_trip(t, text, n_text, false);
        round_trip(t, text, n_text, true);
    }
    tokenizer_close(&t);
    return 0;
}
