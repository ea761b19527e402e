#define ATTN_NAME attn_kern_neon
#define ATTN_TEXT "neon"
#define ATTN_WIDTH 4
#include "ops/cpu/attn_tmpl.h"
#include "ops/cpu/attn_tile_tmpl.h"
