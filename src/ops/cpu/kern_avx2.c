#define KERN_NAME kern_avx2
#define KERN_TEXT "avx2"
#define KERN_WIDTH 8
#include "ops/cpu/kern_decl.h"
#include "ops/cpu/kern_tmpl.h"
