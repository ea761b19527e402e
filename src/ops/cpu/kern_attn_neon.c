#define ATTN_NAME attn_block_neon
#define INDEX_NAME index_block_neon
#define ROW_NAME kv_row_neon
#define ATTN_WIDTH 4
#include "ops/cpu/attn_tmpl.h"
