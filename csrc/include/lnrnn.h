/* Recurrent layers with layer normalisation, one step at a time, without Python.
 *
 *     lnrnn_file* file;
 *     lnrnn_stream* stream;
 *     if (lnrnn_file_open("layers.safetensors", &file) ||
 *         lnrnn_stream_new(file, 1, LNRNN_FLOAT32, &stream))
 *         return fprintf(stderr, "%s\n", lnrnn_error_text()), 1;
 *     lnrnn_file_free(file);
 *     while (read_input(x)) lnrnn_stream_step(stream, x, y);
 *     lnrnn_stream_free(stream);
 *
 * Every function returns LNRNN_OK or what went wrong, which lnrnn_error_text says in one sentence.
 * No exception leaves the library.  A step allocates nothing and takes no lock, so that it may run
 * in the callback of an audio device.  A stream is used by one thread at a time; different streams
 * are independent.  A handle that was freed is answered by LNRNN_HANDLE, not by a crash.
 */
#ifndef LNRNN_H
#define LNRNN_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(LNRNN_SHARED)
#define LNRNN_API __declspec(dllexport)
#elif defined(__GNUC__)
#define LNRNN_API __attribute__((visibility("default")))
#else
#define LNRNN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    LNRNN_OK = 0,
    LNRNN_ARGUMENT = 1, /* an argument is out of range, or null */
    LNRNN_HANDLE = 2,   /* a handle was freed, or is none */
    LNRNN_FILE = 3,     /* a file is not there, damaged, or of layers that no stream computes */
    LNRNN_MEMORY = 4,   /* there is not enough memory */
    LNRNN_MACHINE = 5   /* LNRNN_ISA names an instruction set that is not to be had here */
} lnrnn_status;

/* How the matrices of a stream are stored; all else is float32. */
typedef enum { LNRNN_FLOAT32 = 0, LNRNN_BFLOAT16 = 1, LNRNN_INT8 = 2 } lnrnn_weights;

typedef struct lnrnn_file lnrnn_file;
typedef struct lnrnn_stream lnrnn_stream;

/* What the last function that failed in this thread said. */
LNRNN_API const char* lnrnn_error_text(void);

/* Read a safetensors file, or a copy of one in memory.  Nothing of it is executed; it takes about
 * its own size in memory. */
LNRNN_API lnrnn_status lnrnn_file_open(const char* path, lnrnn_file** file);
LNRNN_API lnrnn_status lnrnn_file_read(const void* bytes, size_t size, lnrnn_file** file);
LNRNN_API lnrnn_status lnrnn_file_free(lnrnn_file* file);

/* The numbers of a tensor as float32, which belong to the file; how many there are, and the lengths
 * of its dimensions (`shape` may be null, else it has room for `dimensions` of them, which are all). */
LNRNN_API lnrnn_status lnrnn_file_tensor(lnrnn_file* file, const char* name, const float** values,
                                         int64_t* count, int64_t* shape, int dimensions);
/* A text of the metadata, which belongs to the file. */
LNRNN_API lnrnn_status lnrnn_file_text(lnrnn_file* file, const char* name, const char** text);

/* A stream of the recurrent layers that lnrnn.save or lnrnn convert wrote, with its states zero, or
 * those that the layers learned to begin with.  It does not need the file any more. */
LNRNN_API lnrnn_status lnrnn_stream_new(lnrnn_file* file, int64_t batch, lnrnn_weights weights,
                                        lnrnn_stream** stream);
LNRNN_API lnrnn_status lnrnn_stream_free(lnrnn_stream* stream);

/* Rows B, numbers of inputs I and of outputs R, and of all states together. */
LNRNN_API lnrnn_status lnrnn_stream_sizes(lnrnn_stream* stream, int64_t* batch, int64_t* inputs,
                                          int64_t* outputs, int64_t* state);

/* One step, y (B, R) from x (B, I); or `steps` steps, y (T, B, R) from x (T, B, I). */
LNRNN_API lnrnn_status lnrnn_stream_step(lnrnn_stream* stream, const float* x, float* y);
LNRNN_API lnrnn_status lnrnn_stream_run(lnrnn_stream* stream, int64_t steps, const float* x,
                                        float* y);

/* As at the start: the states of a row, or of all rows with -1. */
LNRNN_API lnrnn_status lnrnn_stream_reset(lnrnn_stream* stream, int64_t row);

/* All states, layer after layer: h (B, R), and of an LSTM c (B, H) behind it. */
LNRNN_API lnrnn_status lnrnn_stream_get_state(lnrnn_stream* stream, float* state);
LNRNN_API lnrnn_status lnrnn_stream_set_state(lnrnn_stream* stream, const float* state);

#ifdef __cplusplus
}
#endif

#endif
