/* shape: the released model widths as built-in configurations - for plans, synthetic checkpoints and benchmarks that have
 * no config.json at hand. Equal, field by field, to what config_load makes of the released files (tested). */
#ifndef HADAL_MODEL_SHAPE_H
#define HADAL_MODEL_SHAPE_H

#include "model/config.h"

/* Fills c: "flash" or "pro", with one MTP layer or (dspark) the three DSpark stages of the July releases.
 * Error: HD_EARG for another name. */
int config_shape(struct config *c, const char *name, bool dspark, struct err *e);

#endif
