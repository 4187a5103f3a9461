/* Addresses of tensors, read and checked without a framework header: torch hands a C function
   through `__dlpack_c_exchange_api__` that describes a tensor in 30 ns, a tenth of what Python
   needs. The Python functions are declared by hand, so that no Python header has to be installed;
   load this with ctypes.PyDLL, which keeps the GIL. */
#include <stddef.h>
#include <stdint.h>

typedef struct _object PyObject;
extern PyObject _Py_NoneStruct;
extern PyObject *PyList_GetItem(PyObject *, ptrdiff_t); /* borrowed */
extern int PyList_SetItem(PyObject *, ptrdiff_t, PyObject *); /* steals */
extern ptrdiff_t PyList_Size(PyObject *);
extern PyObject *PyObject_GetAttr(PyObject *, PyObject *);
extern PyObject *PyObject_Type(PyObject *);
extern PyObject *PyObject_Vectorcall(PyObject *, PyObject *const *, size_t, PyObject *);
extern int PyObject_IsTrue(PyObject *);
extern void Py_DecRef(PyObject *);
extern void PyErr_Clear(void);

typedef struct { int32_t type, id; } device;
typedef struct { uint8_t code, bits; uint16_t lanes; } element; /* the layout that DLPack fixes */
typedef struct {
    void *data;
    device device;
    int32_t ndim;
    element dtype;
    int64_t *shape;
    int64_t *strides;
    uint64_t byte_offset;
} tensor;
typedef struct { uint32_t major, minor; void *previous; } header;
typedef struct {
    header header;
    void *allocate, *export, *import;
    int (*describe)(PyObject *, tensor *);
    void *stream;
} exchange;

/* Mirrored by `Verdict` in table.py. */
enum {
    KERNEL, ABSENT, EMPTY, TYPE, FAILED, DEVICE, DTYPE, SPARSE_LAYOUT, SHAPE, STRIDES, ADDRESS,
    NEGATIVE, ALIAS, BLOCKED
};

/* Mirrored by `Described` in looking.py. */
typedef struct {
    int64_t rows, columns;
    uintptr_t *addr;        /* [columns][rows] */
    int64_t *numel;         /* [rows] */
    uint64_t *layout;       /* [rows], hash of shape and strides */
    int32_t *verdict;       /* [rows] */
    const int32_t *dtype;   /* [columns], code << 8 | bits */
    const uint8_t *loose;   /* [columns], 1: any shape, but contiguous */
    const uint8_t *blocked; /* [rows], 1: never for the kernel */
    PyObject **plain;       /* types that hold their data themselves */
    int64_t plain_count;
    const exchange *api;
    PyObject *is_neg;       /* torch.Tensor.is_neg */
    PyObject *grad;         /* "grad" */
    device device;
    int32_t parameter;      /* the column whose layout counts */
    int32_t changed;        /* out: another set of rows, or another size */
    int32_t moved;          /* out: a parameter lies elsewhere */
    int32_t trouble;        /* out: rows for Python to look at */
} table;

static int is_plain(const table *t, PyObject *value)
{
    PyObject *type = PyObject_Type(value);
    int found = 0;
    for (int64_t i = 0; i < t->plain_count && !found; i++)
        found = t->plain[i] == type;
    Py_DecRef(type);
    return found;
}

/* DLPack keeps quiet about the negative bit: reading such memory gives the wrong sign. */
static int is_negative(const table *t, PyObject *value)
{
    PyObject *answer = PyObject_Vectorcall(t->is_neg, &value, 1, NULL);
    if (answer == NULL) {
        PyErr_Clear();
        return 1;
    }
    int negative = PyObject_IsTrue(answer);
    Py_DecRef(answer);
    return negative != 0;
}

static int64_t count(const tensor *x)
{
    int64_t n = 1;
    for (int32_t i = 0; i < x->ndim; i++)
        n *= x->shape[i];
    return n;
}

static int contiguous(const tensor *x)
{
    int64_t expected = 1;
    for (int32_t i = x->ndim - 1; x->strides != NULL && i >= 0; i--) {
        if (x->shape[i] != 1 && x->strides[i] != expected)
            return 0;
        expected *= x->shape[i];
    }
    return 1;
}

/* Whether the elements fill their memory without hole or overlap, in some order of dimensions. */
static int dense(const tensor *x)
{
    int64_t expected = 1, left = 0;
    if (contiguous(x))
        return 1;
    for (int32_t i = 0; i < x->ndim; i++)
        left += x->shape[i] != 1;
    while (left > 0) {
        int32_t i = 0;
        while (i < x->ndim && (x->shape[i] == 1 || x->strides[i] != expected))
            i++;
        if (i == x->ndim)
            return 0;
        expected *= x->shape[i];
        left--;
    }
    return 1;
}

static int same_shape(const tensor *a, const tensor *b)
{
    if (a->ndim != b->ndim)
        return 0;
    for (int32_t i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i])
            return 0;
    return 1;
}

static int same_strides(const tensor *a, const tensor *b)
{
    if (a->strides == NULL || b->strides == NULL)
        return contiguous(a) && contiguous(b);
    for (int32_t i = 0; i < a->ndim; i++)
        if (a->shape[i] != 1 && a->strides[i] != b->strides[i])
            return 0;
    return 1;
}

/* Swapped data may lie at the same place in another order: the state would then be read wrongly. */
static uint64_t layout(const tensor *x)
{
    uint64_t hash = (uint64_t)x->ndim;
    for (int32_t i = 0; i < x->ndim; i++) {
        hash = (hash ^ (uint64_t)x->shape[i]) * 0x9E3779B97F4A7C15u;
        hash = (hash ^ (hash >> 32) ^ (uint64_t)(x->strides ? x->strides[i] : 0)) * 0xBF58476D1CE4E5B9u;
    }
    return hash;
}

static int describe(const table *t, int64_t column, PyObject *value, tensor *x)
{
    if (!is_plain(t, value))
        return TYPE;
    if (t->api->describe(value, x) != 0) {
        PyErr_Clear();
        return FAILED;
    }
    if (x->device.type != t->device.type || x->device.id != t->device.id)
        return DEVICE;
    if ((x->dtype.code << 8 | x->dtype.bits) != t->dtype[column] || x->dtype.lanes != 1)
        return DTYPE;
    return KERNEL;
}

static uintptr_t address(const tensor *x)
{
    return x->data == NULL ? 0 : (uintptr_t)x->data + x->byte_offset;
}

/* One cell of the table against the parameter of its row. */
static int check(table *t, int64_t column, int64_t row, PyObject *value, const tensor *p)
{
    tensor x;
    if (value == &_Py_NoneStruct)
        return ABSENT;
    int verdict = describe(t, column, value, &x);
    if (verdict != KERNEL)
        return verdict;
    if (t->loose[column] ? !contiguous(&x) : !same_shape(&x, p))
        return SHAPE;
    if (!t->loose[column] && !same_strides(&x, p))
        return STRIDES;
    if (is_negative(t, value))
        return NEGATIVE;
    uintptr_t place = address(&x);
    if (place == 0 && count(&x) != 0)
        return ADDRESS;
    t->addr[column * t->rows + row] = place;
    return KERNEL;
}

/* The kernel reads and writes through pointers that it takes to be different. */
static int aliased(const table *t, int64_t row)
{
    for (int64_t a = 0; a < t->columns; a++)
        for (int64_t b = 0; b < a; b++)
            if (t->addr[a * t->rows + row] && t->addr[a * t->rows + row] == t->addr[b * t->rows + row])
                return 1;
    return 0;
}

static int parameter(table *t, int64_t row, PyObject *value, tensor *p)
{
    int verdict = describe(t, t->parameter, value, p);
    if (verdict != KERNEL)
        return verdict;
    int64_t n = count(p);
    uintptr_t *place = &t->addr[t->parameter * t->rows + row];
    t->changed |= t->numel[row] != n;
    t->moved |= *place != address(p) || t->layout[row] != layout(p);
    t->numel[row] = n;
    t->layout[row] = layout(p);
    *place = address(p);
    if (n == 0)
        return EMPTY;
    return !dense(p) ? SPARSE_LAYOUT : *place == 0 ? ADDRESS : KERNEL;
}

static PyObject *cell(const table *t, PyObject *list, PyObject *parameters, int64_t row)
{
    if (parameters != &_Py_NoneStruct) {
        PyObject *gradient = PyObject_GetAttr(PyList_GetItem(parameters, row), t->grad);
        if (gradient == NULL || PyList_SetItem(list, row, gradient) != 0)
            return NULL;
    }
    return PyList_GetItem(list, row);
}

static int fill_row(table *t, PyObject *columns, const int32_t *which, int64_t n,
                    PyObject *parameters, int64_t row)
{
    tensor p;
    PyObject *self = PyList_GetItem(PyList_GetItem(columns, t->parameter), row);
    int verdict = t->blocked[row] ? BLOCKED : parameter(t, row, self, &p);
    int32_t column = t->parameter;
    for (int64_t i = 0; i < n; i++) {
        PyObject *list = PyList_GetItem(columns, which[i]);
        if (which[i] == t->parameter)
            continue;
        PyObject *value = cell(t, list, parameters, row);
        if (value == NULL)
            return -1;
        /* An absent gradient outranks whatever is wrong with the row: nobody will touch it. */
        if (value == &_Py_NoneStruct)
            verdict = ABSENT, column = which[i];
        else if (verdict == KERNEL)
            verdict = check(t, which[i], row, value, &p), column = which[i];
    }
    if (verdict == KERNEL && aliased(t, row))
        verdict = ALIAS;
    return verdict | column << 8;
}

/* Fills the columns `which` for all rows. `parameters`: take gradients from there into the (only)
   column; None: they are in the lists already. Returns 0, or -1 with a Python error. */
int32_t optc_fill(table *t, PyObject *columns, const int32_t *which, int64_t n,
                  PyObject *parameters)
{
    t->changed = t->moved = t->trouble = 0;
    for (int64_t row = 0; row < t->rows; row++) {
        int verdict = fill_row(t, columns, which, n, parameters, row);
        if (verdict < 0)
            return -1;
        int reason = verdict & 0xff;
        if (reason <= EMPTY || reason == BLOCKED)
            verdict = reason;
        else
            t->trouble++;
        t->changed |= verdict != t->verdict[row];
        t->verdict[row] = verdict;
    }
    return 0;
}

/* Whether a list holds the known tensors from place `from` on, each frozen or not as it was.
   Returns the place behind them, or -1; a Python error is none of the answers. */
int64_t optc_same(PyObject *list, PyObject *known, int64_t from, const uint8_t *live,
                  PyObject *requires_grad)
{
    ptrdiff_t n = PyList_Size(list);
    if (n < 0 || from + n > PyList_Size(known))
        return -1;
    for (ptrdiff_t at = 0; at < n; at++) {
        PyObject *p = PyList_GetItem(known, from + at);
        if (PyList_GetItem(list, at) != p)
            return -1;
        PyObject *answer = PyObject_GetAttr(p, requires_grad);
        if (answer == NULL)
            return -1;
        int needs = PyObject_IsTrue(answer);
        Py_DecRef(answer);
        if (needs != live[from + at])
            return -1;
    }
    return from + n;
}
