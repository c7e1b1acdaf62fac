/* Rows of equal size, copied from anywhere in one range of memory to one place.
 *
 * A batch is a few hundred rows at random addresses, so most of the time of copying it is spent waiting for memory. The
 * processor fetches ahead by itself only inside a row, and only to the end of a page of 4 KiB. Here the rows to come are
 * announced to it while the ones before are copied. NumPy does the same work without this module; see row_copy.py.
 */
#include "../_extension.h"

#if defined(__GNUC__) || defined(__clang__)
#define FETCH(address) __builtin_prefetch(address, 0, 3)
#else
#define FETCH(address) ((void)(address))
#endif

enum {
    AHEAD = 4,              /* rows that are announced before their turn */
    LINE = 64,              /* bytes that come at once */
    FIRST_LINES = 4,        /* after so many in a row the processor goes on by itself ... */
    PAGE = 4096,            /* ... to the end of a page */
    REACH = 1 << 16,        /* of larger rows only the beginning is announced: the caches have to hold it */
    KEEP_THE_GIL = 1 << 14  /* so few bytes are copied in less time than other threads take to notice */
};

static void
announce(const char *row, Py_ssize_t size)
{
    Py_ssize_t head = size < FIRST_LINES * LINE ? size : FIRST_LINES * LINE;
    Py_ssize_t reach = size < REACH ? size : REACH;

    for (Py_ssize_t i = 0; i < head; i += LINE) {
        FETCH(row + i);
    }
    for (Py_ssize_t i = PAGE; i < reach; i += PAGE) {
        FETCH(row + i);
    }
}

static void
copy(const char *source, const int64_t *offsets, Py_ssize_t count, Py_ssize_t size, char *out)
{
    for (Py_ssize_t i = 0; i < AHEAD && i < count; i++) {
        announce(source + offsets[i], size);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i + AHEAD < count) {
            announce(source + offsets[i + AHEAD], size);
        }
        memcpy(out + i * size, source + offsets[i], (size_t)size);
    }
}

/* Refuse what would read or write outside of the buffers. */
static int
check(const Py_buffer *source, const Py_buffer *offsets, Py_ssize_t size, const Py_buffer *out)
{
    const int64_t *offset = offsets->buf;
    Py_ssize_t count = offsets->len / (Py_ssize_t)sizeof(int64_t);

    if (offsets->itemsize != (Py_ssize_t)sizeof(int64_t)) {
        PyErr_SetString(PyExc_TypeError, "offsets must be 64-bit integers");
        return -1;
    }
    if (size < 1 || out->len / size != count || out->len % size != 0) {
        PyErr_Format(PyExc_ValueError, "%zd rows of %zd bytes do not fill %zd bytes", count, size, out->len);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (offset[i] < 0 || offset[i] > source->len - size) {
            PyErr_Format(PyExc_IndexError, "%zd bytes at %lld are not inside of %zd", size, (long long)offset[i],
                         source->len);
            return -1;
        }
    }
    return 0;
}

/* Let go of the GIL for what takes longer than that. */
static void
copy_all(const Py_buffer *source, const int64_t *offsets, Py_ssize_t size, const Py_buffer *out)
{
    if (out->len <= KEEP_THE_GIL) {
        copy(source->buf, offsets, out->len / size, size, out->buf);
    }
    else {
        Py_BEGIN_ALLOW_THREADS
        copy(source->buf, offsets, out->len / size, size, out->buf);
        Py_END_ALLOW_THREADS
    }
}

static PyObject *
copy_rows(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    static const int flags[] = {PyBUF_SIMPLE, PyBUF_ND, PyBUF_WRITABLE};
    enum { SOURCE, OFFSETS, OUT, BUFFERS };
    Py_buffer held[BUFFERS];
    PyObject *result = NULL;
    Py_ssize_t size;

    if (expect_arguments("copy_rows", nargs, 4) < 0) {
        return NULL;
    }
    size = PyLong_AsSsize_t(args[2]);
    if (size == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (hold_buffers(held, (PyObject *[]){args[0], args[1], args[3]}, flags, BUFFERS) < 0) {
        return NULL;
    }
    if (check(&held[SOURCE], &held[OFFSETS], size, &held[OUT]) == 0) {
        copy_all(&held[SOURCE], held[OFFSETS].buf, size, &held[OUT]);
        result = Py_NewRef(Py_None);
    }
    release_buffers(held, BUFFERS);
    return result;
}

/* Put the offsets of numbered rows into `found`; 0 where there is no such number, or the offset is not a positive one. */
static int
look_up(const Py_buffer *table, const Py_buffer *numbers, int64_t *found)
{
    const int64_t *offsets = table->buf, *number = numbers->buf;
    Py_ssize_t known = table->len / (Py_ssize_t)sizeof(int64_t);

    for (Py_ssize_t i = 0; i < numbers->len / (Py_ssize_t)sizeof(int64_t); i++) {
        if (number[i] < 0 || number[i] >= known || offsets[number[i]] <= 0) {
            return 0;
        }
        found[i] = offsets[number[i]];
    }
    return 1;
}

/* Copy the rows at table[numbers]; NULL with an error where they leave the buffers. */
static PyObject *
copy_found(const Py_buffer *source, const Py_buffer *table, const Py_buffer *numbers, Py_ssize_t size,
           const Py_buffer *out)
{
    Py_buffer offsets = *numbers; /* as many, of the same type */
    PyObject *result = NULL;

    if (table->itemsize != (Py_ssize_t)sizeof(int64_t) || numbers->itemsize != (Py_ssize_t)sizeof(int64_t)) {
        PyErr_SetString(PyExc_TypeError, "offsets and numbers must be 64-bit integers");
        return NULL;
    }
    offsets.buf = PyMem_Malloc(numbers->len > 0 ? (size_t)numbers->len : 1);
    if (offsets.buf == NULL) {
        return PyErr_NoMemory();
    }
    if (!look_up(table, numbers, offsets.buf)) {
        result = Py_NewRef(Py_False);
    }
    else if (check(source, &offsets, size, out) == 0) {
        copy_all(source, offsets.buf, size, out);
        result = Py_NewRef(Py_True);
    }
    PyMem_Free(offsets.buf);
    return result;
}

static PyObject *
copy_numbered_rows(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    static const int flags[] = {PyBUF_SIMPLE, PyBUF_ND, PyBUF_ND, PyBUF_WRITABLE};
    enum { SOURCE, TABLE, NUMBERS, OUT, BUFFERS };
    Py_buffer held[BUFFERS];
    PyObject *result;
    Py_ssize_t size;

    if (expect_arguments("copy_numbered_rows", nargs, 5) < 0) {
        return NULL;
    }
    size = PyLong_AsSsize_t(args[3]);
    if (size == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (hold_buffers(held, (PyObject *[]){args[0], args[1], args[2], args[4]}, flags, BUFFERS) < 0) {
        return NULL;
    }
    result = copy_found(&held[SOURCE], &held[TABLE], &held[NUMBERS], size, &held[OUT]);
    release_buffers(held, BUFFERS);
    return result;
}

PyDoc_STRVAR(copy_rows_doc,
             "copy_rows(source, offsets, size, out, /)\n--\n\n"
             "Put rows of ``size`` bytes, beginning at ``offsets`` (int64) of ``source``, end to end into ``out``.");

PyDoc_STRVAR(copy_numbered_rows_doc,
             "copy_numbered_rows(source, table, numbers, size, out, /)\n--\n\n"
             "Do the same for rows at ``table[numbers]``, which are int64, and return True. Where one of the numbers\n"
             "is not in the table, or its offset is not positive, copy nothing and return False.");

static PyMethodDef methods[] = {
    {"copy_rows", (PyCFunction)(void (*)(void))copy_rows, METH_FASTCALL, copy_rows_doc},
    {"copy_numbered_rows", (PyCFunction)(void (*)(void))copy_numbered_rows, METH_FASTCALL, copy_numbered_rows_doc},
    {NULL, NULL, 0, NULL},
};

EXTENSION_MODULE(_rows, "Rows of equal size, copied with the ones to come fetched in advance.", methods)
