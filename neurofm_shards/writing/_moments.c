/* Sum, spread and range of each channel, over chunks of rows that stay in the processor's cache.
 *
 * NumPy needs five passes over a copy in float64 for what two passes over the values themselves give. The order of the
 * additions is NumPy's, rows one after the other, so that both give the same numbers to the last bit. NumPy does the same
 * work without this module; see statistics.py.
 */
#include "../_extension.h"

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define WIDE __attribute__((target_clones("default", "avx2"))) /* without FMA, which would round otherwise */
#else
#define WIDE
#endif

enum { MEAN, SPREAD, LOW, HIGH, MOMENTS }; /* first axis of the result */

typedef struct {
    const void *values;
    Py_ssize_t rows, width;
    double *moment[MOMENTS];
} Chunk;

/* Integers of at most 16 bits have sums of squares that are exact: one pass does. The second pass of all others takes the
 * values from the cache. What is not finite makes the mean not finite, and the rest of the chunk's numbers meaningless. */
#define ONE_CHUNK(NAME, TYPE, EXACT)                                                                                   \
    WIDE static void NAME(const Chunk *chunk)                                                                          \
    {                                                                                                                  \
        const Py_ssize_t rows = chunk->rows, width = chunk->width;                                                     \
        double *restrict mean = chunk->moment[MEAN], *restrict spread = chunk->moment[SPREAD];                         \
        double *restrict low = chunk->moment[LOW], *restrict high = chunk->moment[HIGH];                               \
        const TYPE *restrict row = chunk->values;                                                                      \
                                                                                                                       \
        for (Py_ssize_t j = 0; j < width; j++) {                                                                       \
            mean[j] = spread[j] = 0.0;                                                                                 \
            low[j] = high[j] = (double)row[j];                                                                         \
        }                                                                                                              \
        for (Py_ssize_t i = 0; i < rows; i++, row += width) {                                                          \
            for (Py_ssize_t j = 0; j < width; j++) {                                                                   \
                double value = (double)row[j];                                                                         \
                                                                                                                       \
                mean[j] += value;                                                                                      \
                low[j] = value < low[j] ? value : low[j];                                                              \
                high[j] = value > high[j] ? value : high[j];                                                           \
                if (EXACT) {                                                                                           \
                    spread[j] += value * value;                                                                        \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        for (Py_ssize_t j = 0; j < width; j++) {                                                                       \
            mean[j] /= (double)rows;                                                                                   \
            if (EXACT) {                                                                                               \
                double rest = spread[j] - mean[j] * mean[j] * (double)rows;                                            \
                                                                                                                       \
                spread[j] = rest > 0.0 ? rest : 0.0;                                                                   \
            }                                                                                                          \
        }                                                                                                              \
        row = chunk->values;                                                                                           \
        for (Py_ssize_t i = 0; i < rows && !EXACT; i++, row += width) {                                                \
            for (Py_ssize_t j = 0; j < width; j++) {                                                                   \
                double off = (double)row[j] - mean[j];                                                                 \
                                                                                                                       \
                spread[j] += off * off;                                                                                \
            }                                                                                                          \
        }                                                                                                              \
    }

ONE_CHUNK(moments_u8, uint8_t, 1)
ONE_CHUNK(moments_i8, int8_t, 1)
ONE_CHUNK(moments_u16, uint16_t, 1)
ONE_CHUNK(moments_i16, int16_t, 1)
ONE_CHUNK(moments_f32, float, 0)
ONE_CHUNK(moments_f64, double, 0)

typedef void (*Moments)(const Chunk *);

static Moments
moments_of(const Py_buffer *values)
{
    static const struct {
        char format;
        Moments moments;
    } known[] = {{'B', moments_u8}, {'b', moments_i8},  {'H', moments_u16},
                 {'h', moments_i16}, {'f', moments_f32}, {'d', moments_f64}};

    if (values->format != NULL && values->format[0] != '\0' && values->format[1] == '\0') {
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
            if (known[i].format == values->format[0]) {
                return known[i].moments;
            }
        }
    }
    PyErr_SetString(PyExc_TypeError, "values are integers of at most 16 bits, float32 or float64, in this machine's order");
    return NULL;
}

static void
fill_all(Moments moments, const Py_buffer *values, Py_ssize_t rows, const Py_buffer *out)
{
    const Py_ssize_t total = values->shape[0], width = values->shape[1], chunks = out->shape[1];

    for (Py_ssize_t k = 0, first = 0; k < chunks; k++, first += rows) {
        Chunk chunk = {
            .values = (const char *)values->buf + first * width * values->itemsize,
            .rows = total - first < rows ? total - first : rows,
            .width = width,
        };

        for (int m = 0; m < MOMENTS; m++) {
            chunk.moment[m] = (double *)out->buf + (m * chunks + k) * width;
        }
        moments(&chunk);
    }
}

static PyObject *
moments(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    static const int flags[] = {PyBUF_C_CONTIGUOUS | PyBUF_FORMAT, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE | PyBUF_FORMAT};
    enum { VALUES, OUT, BUFFERS };
    Py_buffer held[BUFFERS];
    Py_ssize_t rows;
    Moments of_chunk;
    PyObject *result = NULL;

    if (expect_arguments("moments", nargs, 3) < 0) {
        return NULL;
    }
    rows = PyLong_AsSsize_t(args[1]);
    if (rows == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (hold_buffers(held, (PyObject *[]){args[0], args[2]}, flags, BUFFERS) < 0) {
        return NULL;
    }
    if (rows < 1 || held[VALUES].ndim != 2 || held[OUT].ndim != 3 || held[OUT].itemsize != sizeof(double)
        || held[OUT].shape[0] != MOMENTS || held[OUT].shape[2] != held[VALUES].shape[1]
        || held[OUT].shape[1] != held[VALUES].shape[0] / rows + (held[VALUES].shape[0] % rows != 0)) {
        PyErr_SetString(PyExc_ValueError, "values are (rows, channels), moments float64 (4, chunks, channels)");
    }
    else if ((of_chunk = moments_of(&held[VALUES])) != NULL) {
        Py_BEGIN_ALLOW_THREADS
        fill_all(of_chunk, &held[VALUES], rows, &held[OUT]);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    release_buffers(held, BUFFERS);
    return result;
}

PyDoc_STRVAR(moments_doc,
             "moments(values, rows, out, /)\n--\n\n"
             "Fill ``out`` (float64, (4, chunks, channels)) with the mean, the sum of squared deviations from it, the\n"
             "smallest and the largest value of each channel of ``values`` (rows, channels), in chunks of ``rows`` rows;\n"
             "the last one may have fewer. Where the mean is not finite, the others mean nothing.");

static PyMethodDef methods[] = {
    {"moments", (PyCFunction)(void (*)(void))moments, METH_FASTCALL, moments_doc},
    {NULL, NULL, 0, NULL},
};

EXTENSION_MODULE(_moments, "Sum, spread and range of channels, in chunks of rows.", methods)
