/* What the modules in C share: arguments that are buffers, held and released together, and how a module is defined. */
#ifndef NEUROFM_SHARDS_EXTENSION_H
#define NEUROFM_SHARDS_EXTENSION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

static inline int
expect_arguments(const char *function, Py_ssize_t given, Py_ssize_t expected)
{
    if (given != expected) {
        PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, not %zd", function, expected, given);
        return -1;
    }
    return 0;
}

static inline void
release_buffers(Py_buffer *buffers, Py_ssize_t count)
{
    while (count > 0) {
        PyBuffer_Release(&buffers[--count]);
    }
}

/* Hold the buffers of all objects, or of none where one of them has no such buffer. */
static inline int
hold_buffers(Py_buffer *buffers, PyObject *const *objects, const int *flags, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyObject_GetBuffer(objects[i], &buffers[i], flags[i]) < 0) {
            release_buffers(buffers, i);
            return -1;
        }
    }
    return 0;
}

#ifdef Py_mod_multiple_interpreters
#define INTERPRETERS_SLOT {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define INTERPRETERS_SLOT
#endif
#ifdef Py_mod_gil
#define GIL_SLOT {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#else
#define GIL_SLOT
#endif

/* Define the module NAME, which has no state and needs no GIL of its own. */
#define EXTENSION_MODULE(NAME, DOC, METHODS)                                  \
    static PyModuleDef_Slot slots[] = {INTERPRETERS_SLOT GIL_SLOT{0, NULL}};  \
    static struct PyModuleDef module = {                                      \
        .m_base = PyModuleDef_HEAD_INIT,                                      \
        .m_name = #NAME,                                                      \
        .m_doc = DOC,                                                         \
        .m_methods = METHODS,                                                 \
        .m_slots = slots,                                                     \
    };                                                                        \
    PyMODINIT_FUNC PyInit_##NAME(void)                                        \
    {                                                                         \
        return PyModuleDef_Init(&module);                                     \
    }

#endif
