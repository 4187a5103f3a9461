/* AdamW by hand, in the form in which phases are emitted. Columns: parameter, gradient, m, v. */
void adamw(const optc_args *a, int64_t begin, int64_t end)
{
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t r = a->chunk_row[chunk], start = a->chunk_start[chunk];
        const int64_t n = optc_length(a, chunk);
        const double *host = a->host + a->host_row[r] * a->host_stride;
        const float beta1 = (float)host[0], beta2 = (float)host[1], eps = (float)host[2];
        const float decay = (float)host[3], step = (float)host[4], root = (float)host[5];
        const float rest1 = (float)(1.0 - host[0]), rest2 = (float)(1.0 - host[1]);
        float *restrict p = (float *)a->addr[0 * a->rows + r] + start;
        const float *restrict g = (const float *)a->addr[1 * a->rows + r] + start;
        float *restrict m = (float *)a->addr[2 * a->rows + r] + start;
        float *restrict v = (float *)a->addr[3 * a->rows + r] + start;
        for (int64_t i = 0; i < n; i++) {
            const float m1 = beta1 * m[i] + rest1 * g[i];
            const float v1 = beta2 * v[i] + rest2 * g[i] * g[i];
            m[i] = m1;
            v[i] = v1;
            p[i] = p[i] * decay - step * m1 / (sqrtf(v1) * root + eps);
        }
    }
}
