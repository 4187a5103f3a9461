/* Random numbers of one distribution for the cells first .. first + n - 1: what phases take that
   run as torch operations. A kernel draws the same by itself. */
#define DRAW(name, type, one)                                                                     \
    void name(uint64_t key, uint64_t call, uint64_t first, int64_t n, type *restrict out)        \
    {                                                                                             \
        for (int64_t i = 0; i < n; i++)                                                           \
            out[i] = one(optc_philox(key, first + (uint64_t)i, call, 0));                         \
    }
#define DRAWS(how) DRAW(how##_f64, double, optc_##how) DRAW(how##_f32, float, optc_##how##f)
DRAWS(uniform) DRAWS(normal) DRAWS(rademacher)
