#define ATTN_NAME attn_block_avx512
#define INDEX_NAME index_block_avx512
#define ROW_NAME kv_row_avx512
#define ATTN_WIDTH 16
#include "ops/cpu/attn_tmpl.h"
