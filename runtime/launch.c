/* Chunks, threads, and the ends of reductions: the same for every rule, so built once. */
#include <pthread.h>

/* Keeps rows with a `verdict` of 0; returns the number of chunks (the tables may be NULL). */
int64_t optc_chunks(const int64_t *numel, const int32_t *verdict, int64_t rows,
                    int64_t *chunk_row, int64_t *chunk_start)
{
    int64_t count = 0;
    for (int64_t r = 0; r < rows; r++) {
        if (verdict[r] != 0)
            continue;
        for (int64_t start = 0; start < numel[r]; start += OPTC_CHUNK, count++) {
            if (chunk_row == NULL)
                continue;
            chunk_row[count] = r;
            chunk_start[count] = start;
        }
    }
    return count;
}

enum { MOST = 256 }; /* threads */

/* A chunk takes as long as its elements, and these for its beginning: an address of each column,
   and lines that no processor has asked for yet. */
enum { BEGINNING = 1024 };

typedef struct {
    optc_phase *phase;
    const optc_args *args;
    int64_t cut[MOST + 1]; /* thread i runs the chunks cut[i] .. cut[i + 1] - 1 */
} job;

static void run_parts(int64_t begin, int64_t end, void *context)
{
    const job *j = context;
    if (j->cut[begin] < j->cut[end])
        j->phase(j->args, j->cut[begin], j->cut[end]);
}

typedef struct {
    const job *whole;
    int64_t part;
} share;

static void *run_share(void *context)
{
    const share *s = context;
    run_parts(s->part, s->part + 1, (void *)s->whole);
    return NULL;
}

/* For a torch that does not export its loop. A thread that cannot start is run in place. */
static void run_threads(const job *whole, int64_t parts)
{
    share part[MOST];
    pthread_t thread[MOST];
    int started[MOST];
    for (int64_t i = 0; i < parts; i++) {
        part[i] = (share){whole, i};
        started[i] = i > 0 && pthread_create(&thread[i], NULL, run_share, &part[i]) == 0;
    }
    for (int64_t i = 0; i < parts; i++)
        if (!started[i])
            run_share(&part[i]);
    for (int64_t i = 0; i < parts; i++)
        if (started[i])
            pthread_join(thread[i], NULL);
}

typedef int32_t parallel_for(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *);

/* Cuts the chunks into parts that take equally long, none of fewer elements than torch gives a
   thread; returns their number. */
static int64_t share_out(job *whole, int64_t threads)
{
    const optc_args *args = whole->args;
    int64_t elements = 0, done = 0, parts = 0;
    for (int64_t chunk = 0; chunk < args->chunks; chunk++)
        elements += optc_length(args, chunk);
    int64_t most = (elements + 32767) / 32768, work = elements + BEGINNING * args->chunks;
    threads = threads < most ? threads : most;
    threads = threads < 1 ? 1 : threads < MOST ? threads : MOST;
    for (int64_t chunk = 0; chunk < args->chunks; chunk++) {
        while (parts < threads && done * threads >= work * parts)
            whole->cut[parts++] = chunk;
        done += optc_length(args, chunk) + BEGINNING;
    }
    whole->cut[parts] = args->chunks;
    return parts;
}

/* Runs every chunk; `loop` is torch's own parallel loop, or NULL. Not zero: torch failed. */
int32_t optc_launch(parallel_for *loop, optc_phase *phase, const optc_args *args, int64_t threads)
{
    job whole = {.phase = phase, .args = args};
    if (args->chunks == 0)
        return 0;
    int64_t parts = threads > 1 ? share_out(&whole, threads) : 1;
    if (parts == 1)
        phase(args, 0, args->chunks);
    else if (loop != NULL)
        return loop(0, parts, 1, run_parts, &whole);
    else
        run_threads(&whole, parts);
    return 0;
}

enum { SUM, MAX, MIN };
enum { TENSOR, GROUP, MODEL };

static double identity(int32_t operation)
{
    return operation == SUM ? 0.0 : operation == MAX ? -INFINITY : INFINITY;
}

static double combine(int32_t operation, double a, double b)
{
    return operation == SUM ? a + b : operation == MAX ? optc_larger(a, b) : optc_smaller(a, b);
}

/* Chunk partials into tensor values, and these into group or model values, in the order of rows.
   `first` is 0 where a table goes on with the group and model values of the one before. */
void optc_finish(const optc_args *a, const int32_t *operation, const int32_t *reach,
                 const int32_t *slot, int32_t first)
{
    for (int64_t k = 0; k < a->reductions; k++) {
        double start = identity(operation[k]);
        double *tensors = reach[k] == TENSOR ? a->tensor_values + slot[k] * a->rows : NULL;
        double *groups = reach[k] == GROUP ? a->group_values + slot[k] * a->groups : NULL;
        double *model = reach[k] == MODEL ? a->model_values + slot[k] : NULL;
        for (int64_t r = 0; tensors && r < a->rows; r++)
            tensors[r] = start;
        for (int64_t g = 0; groups && first && g < a->groups; g++)
            groups[g] = start;
        if (model && first)
            *model = start;
        for (int64_t chunk = 0; chunk < a->chunks;) {
            int64_t r = a->chunk_row[chunk];
            double value = start;
            for (; chunk < a->chunks && a->chunk_row[chunk] == r; chunk++)
                value = combine(operation[k], value, a->partials[chunk * a->reductions + k]);
            double *target = tensors ? &tensors[r] : groups ? &groups[a->group_of_row[r]] : model;
            *target = combine(operation[k], *target, value);
        }
    }
}
