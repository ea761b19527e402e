/* safetensors files and sharded checkpoints: header parsing, checks, memory mapping. Nothing is copied: a tensor's
 * data points into the mapping.
 * Format: u64 little-endian header length, JSON header, data; data_offsets are relative to the header's end. */
#ifndef HADAL_MODEL_SAFETENSORS_H
#define HADAL_MODEL_SAFETENSORS_H

#include "base/base.h"

enum dtype { DT_NONE = 0, DT_F32, DT_BF16, DT_F16, DT_F8_E4M3, DT_F8_E8M0, DT_I8, DT_I32, DT_I64, DT_U8, DT_COUNT };

const char *dtype_name(enum dtype t); /* "F32", "F8_E4M3", ... as in the file */
int dtype_bytes(enum dtype t);

enum { TENSOR_DIMS_MAX = 6, TENSOR_NAME_MAX = 1024, SHARDS_MAX = 4096, HEADER_BYTES_MAX = 256 << 20 };

/* Names are canonical: an optional leading "model." is dropped, and inside layers.N. and mtp.N. the spellings
 * self_attn, mlp, weight_scale_inv and e_score_correction_bias become attn, ffn, scale and bias. */
struct tensor {
    const char *name;
    enum dtype dtype;
    int n_dims;
    int64_t dim[TENSOR_DIMS_MAX];
    const uint8_t *data; /* NULL when only headers were read; any alignment */
    uint64_t bytes, offset; /* offset from the start of the shard's data part (shards[i_shard].data_start) */
    int i_shard;
};

struct shard {
    char *path;
    struct file_map map; /* size 0 when only headers were read */
    uint64_t file_bytes, data_start;
};

struct checkpoint {
    char *dir;
    struct shard *shards;
    int n_shards;
    struct tensor *tensors; /* sorted by name */
    int64_t n_tensors;
    uint64_t total_bytes;   /* of tensor data */
    int64_t cap_tensors;
    struct name_block *names; /* owns the names */
};

/* Parses one header (`n` bytes of JSON) whose data part has `data_bytes` bytes; appends to tensors (growing array).
 * Checks: valid JSON, known dtype, dims >= 0 without overflow, offsets inside the data, size = product of dims,
 * no overlap, no duplicate, nothing uncovered. The file's tensors are appended in order of their offsets.
 * Exposed for the fuzzer. */
int safetensors_parse_header(struct checkpoint *c, int i_shard, const char *json, size_t n, uint64_t data_bytes,
                             const char *path, struct err *e);

/* Opens DIR (model.safetensors, or model.safetensors.index.json with its shards). map_data false reads headers only.
 * Index and shards must name the same tensors. On error nothing stays open. */
int checkpoint_open(struct checkpoint *c, const char *dir, bool map_data, const struct progress *p, struct err *e);
void checkpoint_close(struct checkpoint *c);

/* Opens one file by itself, without an index. */
int checkpoint_open_file(struct checkpoint *c, const char *path, bool map_data, struct err *e);

/* Parses the text of model.safetensors.index.json: which file holds which tensor. File names may not leave the folder.
 * Exposed for the fuzzer. */
struct index_entry {
    const char *name; /* canonical */
    int i_file;
};
struct shard_index {
    struct index_entry *entries; /* in file order */
    int64_t n_entries, cap_entries;
    char **files; /* file names in order of first use */
    int n_files;
    struct name_block *names;
};
int safetensors_parse_index(struct shard_index *x, const char *json, size_t n, const char *path, struct err *e);
void shard_index_free(struct shard_index *x);

/* NULL when absent. Names are compared without an optional leading "model.". O(log n). */
const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name);

#endif
