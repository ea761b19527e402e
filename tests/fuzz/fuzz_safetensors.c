/* A safetensors header: the first 8 bytes stand for the size of the data part, the rest is JSON. */
#include "model/safetensors.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t data_bytes;
    if (size < sizeof data_bytes)
        return 0;
    memcpy(&data_bytes, data, sizeof data_bytes);
    struct checkpoint c = {0};
    struct err e = {0};
    int rc = safetensors_parse_header(&c, 0, (const char *)data + 8, size - 8, data_bytes, "fuzz", &e);
    assert((rc == HD_OK) == (e.msg[0] == '\0'));
    uint64_t end = 0;
    for (int64_t i = 0; rc == HD_OK && i < c.n_tensors; i++) {
        assert(c.tensors[i].offset == end && c.tensors[i].bytes <= data_bytes - end);
        assert(strlen(c.tensors[i].name) < TENSOR_NAME_MAX);
        end += c.tensors[i].bytes;
    }
    assert(rc != HD_OK || end == data_bytes);
    checkpoint_close(&c);
    return 0;
}
