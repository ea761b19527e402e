/* config.json */
#include "model/config.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config c;
    struct err e = {0};
    int rc = config_parse(&c, (const char *)data, size, "fuzz", &e);
    assert((rc == HD_OK) == (e.msg[0] == '\0'));
    if (rc != HD_OK)
        return 0;
    assert(c.n_layers >= 1 && c.n_layers <= c.n_compress_ratios && c.n_compress_ratios <= LAYERS_MAX);
    assert(c.n_heads % c.o_groups == 0 && c.n_dspark_targets <= DSPARK_TARGETS_MAX);
    for (int l = 0; l < c.n_compress_ratios; l++)
        assert(layer_kind_name(config_layer_kind(&c, l)) != NULL);
    return 0;
}
