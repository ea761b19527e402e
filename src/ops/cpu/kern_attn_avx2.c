#define ATTN_NAME attn_block_avx2
#define INDEX_NAME index_block_avx2
#define ROW_NAME kv_row_avx2
#define ATTN_WIDTH 8
#include "ops/cpu/attn_tmpl.h"
