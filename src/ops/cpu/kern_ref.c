#define KERN_NAME kern_ref
#define KERN_TEXT "reference"
#define KERN_WIDTH 4
#include "ops/cpu/kern_decl.h"
#include "ops/cpu/kern_tmpl.h"
