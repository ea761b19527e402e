/* A file of packed weights: head and index. A section that passes lies inside the file. */
#include "model/packed.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct packed_index x;
    struct err e = {0};
    int rc = packed_parse(&x, data, size, "fuzz", &e);
    assert((rc == HD_OK) == (e.msg[0] == '\0'));
    for (uint64_t i = 0; rc == HD_OK && i < x.head.n_sections; i++) {
        struct packed_section s = packed_section_of(&x, i);
        assert(s.bytes == 0 || (s.at <= size && s.bytes <= size - s.at));
    }
    return 0;
}
