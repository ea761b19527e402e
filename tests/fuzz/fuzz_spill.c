/* Cache files of the disk tier: up to a few files of any contents in the folder. Nothing that is in them may do more than
 * be left out, and the folder can be used afterwards. */
#include "engine/spill.h"
#include "engine/spill_disk.h"
#include "engine/spill_impl.h"
#include "fake_disk.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 512, TAIL = 1040, BLOCK = 4096, FILES = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int n_loaded;

static void on_loaded(void *arg, void *tag, enum spill_kind kind, bool ok, const void *data)
{
    (void)arg, (void)tag, (void)kind, (void)data;
    n_loaded += ok ? 1 : 2;
}

/* The input without its zeros, so that mutations find the bytes that count: 0xff N is N + 1 blocks of zeros less the way
 * there, other bytes are themselves. */
static size_t unpack(const uint8_t *data, size_t size, uint8_t *out, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < size && n < cap; i++) {
        if (data[i] != 0xff || i + 1 == size) {
            out[n++] = data[i];
            continue;
        }
        size_t to = (n / BLOCK + 1 + data[++i] % 32) * BLOCK;
        to = to < cap ? to : cap;
        memset(out + n, 0, to - n);
        n = to;
    }
    return n;
}

/* The checksums of headers are made right, otherwise nothing behind them would ever be reached; one bit of the first byte says
 * whether. */
static void seal(uint8_t *file, size_t n)
{
    struct spill_segment *s = (struct spill_segment *)(void *)file;
    if (n < BLOCK)
        return;
    spill_segment_seal(s);
    for (size_t at = BLOCK; at + BLOCK <= n && at <= (size_t)s->n_slots * BLOCK; at += BLOCK) {
        struct spill_record *r = (struct spill_record *)(void *)(file + at);
        if (r->magic != 0 && r->payload_bytes <= TAIL)
            spill_record_seal(r, file);
    }
}

static void use(struct spill *s)
{
    int32_t tokens[KV_PAGE_TOKENS] = {0};
    uint8_t page[TAIL] = {0};
    for (int32_t i = 0; i < s->n_fresh; i++)
        for (int k = 0; k < SPILL_KINDS; k++) {
            struct spill_place p = {s->entries[i].key, s->entries[i].key, s->entries[i].depth, "u", tokens};
            if (s->entries[i].used && spill_has(s, p.key, (enum spill_kind)k))
                spill_load(s, &p, (enum spill_kind)k, &n_loaded);
            spill_poll(s, true);
            spill_check(s);
        }
    struct spill_key key = spill_key_of_user("u");
    struct spill_place p = {spill_key_next(key, tokens), key, 1, "u", tokens};
    while (spill_takes(s, p.key, SPILL_PAGE) && spill_save(s, &p, SPILL_PAGE, page) == SPILL_BUSY)
        spill_poll(s, true);
    while (spill_working(s))
        spill_poll(s, true);
    spill_check(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fake_disk d;
    static uint8_t file[64 * BLOCK] __attribute__((aligned(BLOCK)));
    struct spill_options o = {.limit_bytes = 1 << 20, .fingerprint = 7, .page_bytes = PAGE, .tail_bytes = TAIL,
                              .no_thread = true, .loaded = on_loaded, .retry_ns = 1};
    struct spill *s = NULL;
    if (size < 2)
        return 0;
    fake_disk_init(&d, 1);
    size_t part = (size - 1 + FILES - 1) / FILES;
    for (size_t i = 0; i < FILES && 1 + i * part < size; i++) {
        char name[SPILL_NAME_BYTES];
        size_t at = 1 + i * part, n = unpack(data + at, at + part < size ? part : size - at, file, sizeof file);
        n = data[0] & 8 ? n : n / BLOCK * BLOCK; /* the last bytes only fill the part up */
        if (data[0] >> i & 1)
            seal(file, n);
        snprintf(name, sizeof name, "seg-%010zx.hkv", i + 1);
        fake_disk_put(&d, name, file, n);
    }
    if (spill_open_disk(&s, &o, fake_disk_open(&d), NULL) == HD_OK) {
        spill_check(s);
        use(s);
        spill_close(&s);
    }
    fake_disk_free(&d);
    return 0;
}
