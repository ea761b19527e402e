#define ATTN_NAME attn_block_ref
#define INDEX_NAME index_block_ref
#define ROW_NAME kv_row_ref
#define ATTN_WIDTH 4
#include "ops/cpu/attn_tmpl.h"
