/* The function ABI of Tributary, version 1, for C. docs/abi.md is the contract; this is its shape.
 *
 * A function includes this header once, defines describe, fold, merge and finish, and is built as
 * functions/README.md says. It needs no library and no operating system. */

#ifndef TRIBUTARY_H
#define TRIBUTARY_H

#include <stdint.h>

#define TRIBUTARY_EXPORT(name) __attribute__((export_name(#name), visibility("default")))
#define TRIBUTARY_IMPORT(name) __attribute__((import_module("tributary"), import_name(#name)))

/* Addresses are offsets in the linear memory; 0 means absent. */

struct tributary_description {
    uint32_t abi;     /* 1 */
    uint32_t algebra; /* 1: monoid */
    uint32_t partial_bytes_per_element;
    uint32_t scalar_bytes; /* at most 4096 */
    uint32_t max_inputs;   /* 1 to 64 */
    uint32_t encodings;    /* bit n: fold takes updates of encoding n; 0: f32 alone */
    uint32_t reserved[2];  /* 0 */
};

/* How an update writes its values. Who declares none of them is given f32 alone. */
enum tributary_encoding {
    TRIBUTARY_F32,
    TRIBUTARY_F16,  /* binary16: 2 bytes for each element */
    TRIBUTARY_BF16, /* the upper half of an f32 */
    TRIBUTARY_I8,   /* a signed byte for each element, times the scale of its run */
    TRIBUTARY_SPARSE /* what is not named is 0 */
};

struct tributary_input {
    uint32_t vector;  /* fold: an update from first_element on, or all values of a sparse one;
                         merge: a partial */
    uint32_t scalars; /* merge only */
    double weight;    /* fold only */
    uint32_t contributors;
    uint32_t encoding; /* fold only, as the next two */
    uint32_t table;    /* i8: all scale runs of the update; sparse: all coordinates (u32) */
    uint32_t count;    /* of runs or coordinates */
};

/* A run ends where the next one begins. The first one begins at 0. */
struct tributary_run {
    uint32_t start; /* a coordinate of the whole model */
    float scale;
};

struct tributary_call {
    uint32_t count; /* of inputs */
    uint32_t elements;
    uint32_t previous; /* a partial */
    uint32_t output;   /* fold, merge: a partial; finish: f32 of the new model */
    uint32_t previous_scalars;
    uint32_t output_scalars; /* fold and merge only */
    uint32_t model;          /* f32 of the current global model */
    uint32_t reserved;
    uint64_t first_element; /* coordinate of element 0 of every vector */
    uint64_t round;
    uint64_t reserved_too[2];
    struct tributary_input inputs[];
};

_Static_assert(sizeof(struct tributary_description) == 32, "as docs/abi.md has it");
_Static_assert(sizeof(struct tributary_input) == 32, "as docs/abi.md has it");
_Static_assert(sizeof(struct tributary_run) == 8, "as docs/abi.md has it");
_Static_assert(sizeof(struct tributary_call) == 64, "as docs/abi.md has it");

/* What the host offers. Link only what you call: an import that is not used is not imported. */

enum { TRIBUTARY_ERROR = 1, TRIBUTARY_WARN, TRIBUTARY_INFO, TRIBUTARY_DEBUG, TRIBUTARY_TRACE };

TRIBUTARY_IMPORT(log) void tributary_log(int32_t level, const char *text, uint32_t len);
TRIBUTARY_IMPORT(config_len) uint32_t tributary_config_len(void);
TRIBUTARY_IMPORT(config_read) void tributary_config_read(char *place, uint32_t len);
TRIBUTARY_IMPORT(clock_ns) int64_t tributary_clock_ns(void);

/* What the host calls. fold, merge and finish return 0, or a code of your own. */

TRIBUTARY_EXPORT(describe) const struct tributary_description *describe(void);
TRIBUTARY_EXPORT(fold) int32_t fold(const struct tributary_call *call);
TRIBUTARY_EXPORT(merge) int32_t merge(const struct tributary_call *call);
TRIBUTARY_EXPORT(finish) int32_t finish(const struct tributary_call *call);

/* The stamp of the version; never called. */
TRIBUTARY_EXPORT(tributary_abi_v1) void tributary_abi_v1(void) {}

/* What lies at an address. */
#define TRIBUTARY_AT(type, address) ((type *)(uintptr_t)(address))

#endif
