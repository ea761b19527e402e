#define KERN_NAME kern_avx512
#define KERN_TEXT "avx512"
#define KERN_WIDTH 16
#include "ops/cpu/kern_decl.h"
#include "ops/cpu/kern_tmpl.h"
