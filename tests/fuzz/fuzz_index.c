/* model.safetensors.index.json */
#include "model/safetensors.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct shard_index x;
    struct err e = {0};
    int rc = safetensors_parse_index(&x, (const char *)data, size, "fuzz", &e);
    assert((rc == HD_OK) == (e.msg[0] == '\0'));
    for (int64_t i = 0; i < x.n_entries; i++)
        assert(x.entries[i].i_file >= 0 && x.entries[i].i_file < x.n_files);
    for (int i = 0; i < x.n_files; i++)
        assert(strchr(x.files[i], '/') == NULL && x.files[i][0] != '.');
    shard_index_free(&x);
    return 0;
}
