/* The unweighted mean: every client counts the same, whatever weight it claims.
 *
 * A partial is the sum of its updates in f64, and the number of clients in them. Takes no
 * configuration. */

#include "../include/tributary.h"

/* Which the compiler may use; -msimd128 on the command line would do as well. */
#define FAST __attribute__((target("simd128")))

enum { NOTHING_TO_FINISH = 4 };

/* Elements that are summed at a time: 4 KiB of sums stay in the first-level cache. */
enum { BLOCK = 512 };

struct scalars {
    uint64_t clients;
};

static const struct tributary_description DESCRIPTION = {
    .abi = 1,
    .algebra = 1,
    .partial_bytes_per_element = sizeof(double),
    .scalar_bytes = sizeof(struct scalars),
    .max_inputs = 16,
};

#define ERROR(text) tributary_log(TRIBUTARY_ERROR, text, sizeof(text) - 1)

const struct tributary_description *describe(void)
{
    /* An empty object is as good as none. */
    if (tributary_config_len() > 2) {
        ERROR("mean takes no configuration");
        return 0;
    }
    return &DESCRIPTION;
}

/* The first value of a block of sums: the previous partial's, or zero. */
FAST static void begin(double *restrict sums, const double *restrict previous, uint32_t from,
                       uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        sums[i] = previous ? previous[from + i] : 0.0;
}

FAST static void add_f32(double *restrict sums, const float *restrict values, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        sums[i] += values[i];
}

FAST static void add_f64(double *restrict sums, const double *restrict values, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        sums[i] += values[i];
}

/* output = previous + inputs, which are updates or partials. */
static int32_t sum(const struct tributary_call *call, int partials)
{
    const double *previous = TRIBUTARY_AT(const double, call->previous);
    double *output = TRIBUTARY_AT(double, call->output);
    for (uint32_t from = 0; from < call->elements; from += BLOCK) {
        uint32_t left = call->elements - from;
        uint32_t len = left < BLOCK ? left : BLOCK;
        begin(output + from, previous, from, len);
        for (uint32_t i = 0; i < call->count; i++) {
            uint32_t vector = call->inputs[i].vector;
            if (partials)
                add_f64(output + from, TRIBUTARY_AT(const double, vector) + from, len);
            else
                add_f32(output + from, TRIBUTARY_AT(const float, vector) + from, len);
        }
    }
    uint64_t clients = 0;
    if (call->previous)
        clients = TRIBUTARY_AT(const struct scalars, call->previous_scalars)->clients;
    for (uint32_t i = 0; i < call->count; i++)
        clients += partials
                       ? TRIBUTARY_AT(const struct scalars, call->inputs[i].scalars)->clients
                       : call->inputs[i].contributors;
    TRIBUTARY_AT(struct scalars, call->output_scalars)->clients = clients;
    return 0;
}

int32_t fold(const struct tributary_call *call)
{
    return sum(call, 0);
}

int32_t merge(const struct tributary_call *call)
{
    return sum(call, 1);
}

FAST int32_t finish(const struct tributary_call *call)
{
    const double *sums = TRIBUTARY_AT(const double, call->previous);
    float *model = TRIBUTARY_AT(float, call->output);
    uint64_t clients = TRIBUTARY_AT(const struct scalars, call->previous_scalars)->clients;
    if (clients == 0) {
        ERROR("there are no clients: there is no mean");
        return NOTHING_TO_FINISH;
    }
    double count = (double)clients;
    for (uint32_t i = 0; i < call->elements; i++)
        model[i] = (float)(sums[i] / count);
    return 0;
}
