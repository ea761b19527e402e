/* The golden checkpoints that tests read: unpacked once from tests/data/golden/NAME.tar.xz into the build folder. */
#ifndef HADAL_TEST_GOLDEN_DATA_H
#define HADAL_TEST_GOLDEN_DATA_H

/* Folder of case NAME ("f32-tiny", "q-tiny", "dspark-tiny"); aborts with a sentence when it cannot be unpacked. The text is
 * valid until the next call. Tests run from the top of the tree; $B names the build folder. */
const char *golden_dir(const char *name);

#endif
