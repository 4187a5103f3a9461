/* What a compiled phase is called with; the text stands before every emitted source. */
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Elements of one chunk. A part of the language's meaning: a reduction adds chunk by chunk. */
#define OPTC_CHUNK 16384
/* Sums of one chunk run in so many double lanes: element i of the chunk goes to lane i % 16. */
#define OPTC_LANES 16

typedef struct {
    void **addr;                /* [columns][rows], addr[c * rows + r]; element alignment only */
    const int64_t *numel;       /* [rows] */
    const int64_t *chunk_row;   /* [chunks], ascending; rows without a gradient have no chunk */
    const int64_t *chunk_start; /* [chunks], first element of the chunk in its tensor */
    int64_t chunks;
    int64_t rows;
    const int32_t *host_row;    /* [rows], row of `host` that belongs to a tensor */
    const double *host;         /* [.][host_stride], scalars computed by the host */
    int64_t host_stride;
    double *tensor_values;      /* [slots][rows] */
    double *group_values;       /* [slots][groups] */
    const int32_t *group_of_row; /* [rows] */
    int64_t groups;
    double *model_values;       /* [slots] */
    double *partials;           /* [chunks][reductions] */
    int64_t reductions;
    uint64_t seed;
    uint64_t call;
    const int64_t *cell_offset; /* [rows], random cell of the first element */
} optc_args;

/* A phase runs the chunks begin..end-1; nothing it writes is shared between two chunks. */
typedef void optc_phase(const optc_args *a, int64_t begin, int64_t end);

static inline int64_t optc_length(const optc_args *a, int64_t chunk)
{
    int64_t left = a->numel[a->chunk_row[chunk]] - a->chunk_start[chunk];
    return left < OPTC_CHUNK ? left : OPTC_CHUNK;
}

/* A NaN wins, as in torch: fmax would lose it, and does not vectorise. */
static inline double optc_larger(double a, double b) { return b > a || b != b ? b : a; }
static inline double optc_smaller(double a, double b) { return b < a || b != b ? b : a; }
static inline float optc_largerf(float a, float b) { return b > a || b != b ? b : a; }
static inline float optc_smallerf(float a, float b) { return b < a || b != b ? b : a; }

/* Lanes are folded in halves, 8 4 2 1: the order is fixed, whatever the vector width. */
#define OPTC_FOLD(name, combine)                                                                  \
    static inline double name(const double lanes[OPTC_LANES])                                     \
    {                                                                                             \
        double part[OPTC_LANES];                                                                  \
        memcpy(part, lanes, sizeof part);                                                         \
        for (int width = OPTC_LANES / 2; width; width /= 2)                                       \
            for (int i = 0; i < width; i++)                                                       \
                part[i] = combine(part[i], part[i + width]);                                      \
        return part[0];                                                                           \
    }
#define OPTC_ADD(a, b) ((a) + (b))
OPTC_FOLD(optc_lanes_sum, OPTC_ADD)
OPTC_FOLD(optc_lanes_max, optc_larger)
OPTC_FOLD(optc_lanes_min, optc_smaller)
