/* Events counted per window, bin and row, for windows of many recordings at once.
 *
 * A batch is a few dozen short windows, each from somewhere else, of trains that are sorted by time. What NumPy needs a
 * dozen calls and as many arrays for is a binary search and a walk over the events of the window. Trains come from files:
 * nothing is believed of them but their length. An owner or row that is out of range is an error, and times that are not
 * in order give wrong counts, never a wrong address. NumPy does the same work without this module; see counting.py.
 */
#include "../_extension.h"

enum { U8, U16, F32 };                        /* types of counts */
enum { TICKS, OWNERS, ROWS, PARTS };          /* what a train is made of */
enum { OK, BAD_OWNER, TOO_MANY };

typedef struct {
    Py_buffer part[PARTS];
    Py_ssize_t held;                          /* parts that have to be given back */
    Py_ssize_t events, owners;
    int has_rows;
} Train;

typedef struct {
    int64_t start, stop, bin_ticks, width;
} Window;

enum { TRAIN, START, HELD, CELL, WIDTH, BINS, FIELDS }; /* columns of the table of windows */

static int64_t
tick_at(const char *ticks, Py_ssize_t i)
{
    int64_t tick;

    memcpy(&tick, ticks + i * (Py_ssize_t)sizeof(tick), sizeof(tick)); /* arrays in files may lie anywhere */
    return tick;
}

static Py_ssize_t
first_from(const Train *train, int64_t tick)
{
    const char *ticks = train->part[TICKS].buf;
    Py_ssize_t low = 0, high = train->events;

    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;

        if (tick_at(ticks, middle) < tick) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

/* Count the events of one window. Bins are walked through with the events, which saves a division for each, and the
 * window's end is looked for only where a bin ends. Of times out of order some land in a later bin, none outside: a tick
 * before `stop` moves on to the last bin at most. An int32 owner is never negative: as uint32 it is out of range like any
 * other. The largest count of a type is the last one that fits. */
#define COUNT_ONE(NAME, TYPE, OWNER)                                                                                   \
    static int NAME(const Train *train, const Window *window, TYPE *out, int64_t largest)                              \
    {                                                                                                                  \
        const char *ticks = train->part[TICKS].buf, *owners = train->part[OWNERS].buf;                                 \
        const int32_t *rows = train->has_rows ? train->part[ROWS].buf : NULL;                                          \
        const Py_ssize_t events = train->events;                                                                       \
        const int64_t stop = window->stop, bin_ticks = window->bin_ticks, width = window->width;                       \
        const int64_t known = rows != NULL ? train->owners : width;                                                    \
        const TYPE most = (TYPE)largest;                                                                               \
        int64_t edge = window->start + bin_ticks;                                                                      \
                                                                                                                       \
        for (Py_ssize_t i = edge > stop ? events : first_from(train, window->start); i < events; i++) {                \
            int64_t tick = tick_at(ticks, i), row;                                                                     \
            OWNER owner;                                                                                               \
                                                                                                                       \
            if (tick >= edge) {                                                                                        \
                if (tick >= stop) {                                                                                    \
                    break;                                                                                             \
                }                                                                                                      \
                do {                                                                                                   \
                    edge += bin_ticks;                                                                                 \
                    out += width;                                                                                      \
                } while (tick >= edge);                                                                                \
            }                                                                                                          \
            memcpy(&owner, owners + i * (Py_ssize_t)sizeof(owner), sizeof(owner));                                     \
            row = owner;                                                                                               \
            if (row >= known) {                                                                                        \
                return BAD_OWNER;                                                                                      \
            }                                                                                                          \
            if (rows != NULL) {                                                                                        \
                row = rows[row];                                                                                       \
                if (row < 0) {                                                                                         \
                    continue;                                                                                          \
                }                                                                                                      \
                if (row >= width) {                                                                                    \
                    return BAD_OWNER;                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
            if (out[row] >= most) {                                                                                    \
                return TOO_MANY;                                                                                       \
            }                                                                                                          \
            out[row] += 1;                                                                                             \
        }                                                                                                              \
        return OK;                                                                                                     \
    }

COUNT_ONE(count_u8_of_16, uint8_t, uint16_t)
COUNT_ONE(count_u8_of_32, uint8_t, uint32_t)
COUNT_ONE(count_u16_of_16, uint16_t, uint16_t)
COUNT_ONE(count_u16_of_32, uint16_t, uint32_t)
COUNT_ONE(count_f32_of_16, float, uint16_t)
COUNT_ONE(count_f32_of_32, float, uint32_t)

static int
count_one(const Train *train, const Window *window, void *out, Py_ssize_t cell, int kind, int64_t most)
{
    int small = train->part[OWNERS].itemsize == 2;

    switch (kind) {
    case U8:
        return (small ? count_u8_of_16 : count_u8_of_32)(train, window, (uint8_t *)out + cell, most);
    case U16:
        return (small ? count_u16_of_16 : count_u16_of_32)(train, window, (uint16_t *)out + cell, most);
    default:
        return (small ? count_f32_of_16 : count_f32_of_32)(train, window, (float *)out + cell, most);
    }
}

static void
release(Train *trains, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        for (Py_ssize_t k = 0; k < trains[i].held; k++) {
            PyBuffer_Release(&trains[i].part[k]);
        }
    }
    PyMem_Free(trains);
}

/* Take hold of the arrays of one train: (ticks, owner, rows or None). */
static int
hold(PyObject *item, Train *train)
{
    static const Py_ssize_t sizes[PARTS] = {8, 0, 4};

    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != PARTS) {
        PyErr_SetString(PyExc_TypeError, "a train is a tuple of ticks, owner and rows");
        return -1;
    }
    train->has_rows = PyTuple_GET_ITEM(item, ROWS) != Py_None;
    for (int k = 0; k < PARTS - !train->has_rows; k++) {
        Py_buffer *part = &train->part[k];

        if (PyObject_GetBuffer(PyTuple_GET_ITEM(item, k), part, PyBUF_ND) < 0) {
            return -1;
        }
        train->held = k + 1;
        if (part->ndim != 1 || (sizes[k] ? part->itemsize != sizes[k] : part->itemsize != 2 && part->itemsize != 4)) {
            PyErr_SetString(PyExc_TypeError, "ticks are int64, owners of 2 or 4 bytes, rows int32, in one dimension");
            return -1;
        }
    }
    train->events = train->part[TICKS].shape[0];
    train->owners = train->has_rows ? train->part[ROWS].shape[0] : 0;
    if (train->part[OWNERS].shape[0] != train->events) {
        PyErr_SetString(PyExc_ValueError, "there are not as many owners as ticks");
        return -1;
    }
    return 0;
}

static Train *
hold_all(PyObject *items, Py_ssize_t *count)
{
    Train *trains;

    if (!PyList_Check(items)) {
        PyErr_SetString(PyExc_TypeError, "trains must be a list");
        return NULL;
    }
    *count = PyList_GET_SIZE(items);
    trains = PyMem_Calloc(*count > 0 ? (size_t)*count : 1, sizeof(Train));
    if (trains == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < *count; i++) {
        if (hold(PyList_GET_ITEM(items, i), &trains[i]) < 0) {
            release(trains, *count);
            return NULL;
        }
    }
    return trains;
}

/* Refuse windows whose counts would not lie inside of the output. */
static int
check(const Py_buffer *table, Py_ssize_t trains, int64_t bin_ticks, Py_ssize_t cells)
{
    Py_ssize_t n = table->shape[0];
    const int64_t *row = table->buf;

    for (Py_ssize_t i = 0; i < n; i++, row += FIELDS) {
        int64_t start = row[START], cell = row[CELL], width = row[WIDTH], bins = row[BINS];

        if (bin_ticks < 1 || bins < 1 || bins > INT64_MAX / 2 / bin_ticks) {
            PyErr_SetString(PyExc_ValueError, "bins must be positive, and a window no longer than time");
            return -1;
        }
        if (row[TRAIN] < 0 || row[TRAIN] >= trains || width < 0 || cell < 0 || width > cells / bins
            || cell > cells - bins * width) {
            PyErr_SetString(PyExc_IndexError, "a window names no train, or lies outside of the output");
            return -1;
        }
        if (start < INT64_MIN / 2 || start > INT64_MAX / 2 || row[HELD] > bins) {
            PyErr_SetString(PyExc_ValueError, "a window is longer than its bins, or lies beyond time");
            return -1;
        }
    }
    return 0;
}

/* Count the events of all windows; NULL with an error where one cannot be counted. */
static PyObject *
count_all(const Train *trains, Py_ssize_t count, const Py_buffer *table, const Py_buffer *out, int64_t bin_ticks,
          int64_t most)
{
    int kind = out->itemsize == 1 ? U8 : out->itemsize == 2 ? U16 : F32, failed = OK;
    Py_ssize_t at = -1;

    if (table->ndim != 2 || table->shape[1] != FIELDS || table->itemsize != 8 || (out->itemsize != 1
        && out->itemsize != 2 && (out->itemsize != 4 || out->format == NULL || strcmp(out->format, "f") != 0))) {
        PyErr_SetString(PyExc_TypeError, "windows are int64 (n, 6), and counts uint8, uint16 or float32");
        return NULL;
    }
    if (check(table, count, bin_ticks, out->len / out->itemsize) < 0) {
        return NULL;
    }
    most = kind == U8 && most > UINT8_MAX ? UINT8_MAX : kind == U16 && most > UINT16_MAX ? UINT16_MAX : most;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < table->shape[0] && failed == OK; i++) {
        const int64_t *row = (const int64_t *)table->buf + FIELDS * i;
        int64_t held = row[HELD] > 0 ? row[HELD] : 0;
        Window window = {row[START], row[START] + held * bin_ticks, bin_ticks, row[WIDTH]};
        char *cells = (char *)out->buf + row[CELL] * out->itemsize;

        memset(cells, 0, (size_t)(row[BINS] * row[WIDTH] * out->itemsize)); /* one by one: they stay in the cache */
        failed = count_one(&trains[row[TRAIN]], &window, out->buf, (Py_ssize_t)row[CELL], kind, most);
        at = i;
    }
    Py_END_ALLOW_THREADS
    if (failed == BAD_OWNER) {
        return PyErr_Format(PyExc_IndexError, "an event of window %zd belongs to nobody", at);
    }
    if (failed == TOO_MANY) {
        PyObject *number = PyLong_FromSsize_t(at);

        if (number != NULL) {
            PyErr_SetObject(PyExc_OverflowError, number);
            Py_DECREF(number);
        }
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static PyObject *
count_events(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    static const int flags[] = {PyBUF_ND, PyBUF_WRITABLE | PyBUF_ND | PyBUF_FORMAT};
    enum { TABLE, OUT, BUFFERS };
    Py_buffer held[BUFFERS];
    Py_ssize_t count;
    int64_t bin_ticks, most;
    Train *trains;
    PyObject *result = NULL;

    if (expect_arguments("count_events", nargs, 5) < 0) {
        return NULL;
    }
    bin_ticks = PyLong_AsLongLong(args[2]);
    most = PyLong_AsLongLong(args[3]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    trains = hold_all(args[0], &count);
    if (trains == NULL) {
        return NULL;
    }
    if (hold_buffers(held, (PyObject *[]){args[1], args[4]}, flags, BUFFERS) == 0) {
        result = count_all(trains, count, &held[TABLE], &held[OUT], bin_ticks, most);
        release_buffers(held, BUFFERS);
    }
    release(trains, count);
    return result;
}

PyDoc_STRVAR(count_events_doc,
             "count_events(trains, windows, bin_ticks, most, out, /)\n--\n\n"
             "Count the events of ``windows`` (int64, (n, 6): number of the train, first tick, bins that it holds,\n"
             "first cell in ``out``, width, bins) into cells of bins times width, which are set to 0 before; others keep what\n"
             "they hold. ``trains`` is a list of tuples: ticks, owner, and the row of each owner or None. A count beyond\n"
             "``most`` is an OverflowError of the window.");

static PyMethodDef methods[] = {
    {"count_events", (PyCFunction)(void (*)(void))count_events, METH_FASTCALL, count_events_doc},
    {NULL, NULL, 0, NULL},
};

EXTENSION_MODULE(_events, "Events of many recordings counted per window, bin and row.", methods)
