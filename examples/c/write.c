/* Text by a language model that `lnrnn train` has trained, without Python:
 *
 *     python examples/c/export.py runs/20260101-120000 model
 *     write model/layers.safetensors model/characters.safetensors 400
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lnrnn.h"

static void check(lnrnn_status status) {
    if (status == LNRNN_OK) return;
    fprintf(stderr, "%s\n", lnrnn_error_text());
    exit(1);
}

/* Print character `number` of a text in UTF-8. */
static void print_character(const char* text, int64_t number) {
    while (number > 0) number -= (*++text & 0xc0) != 0x80;
    do putchar(*text++);
    while ((*text & 0xc0) == 0x80);
}

int main(int count, char** arguments) {
    lnrnn_file *layers, *characters;
    lnrnn_stream* stream;
    const float *embedding, *kernel, *bias; /* (V, I), (H, V), (V) */
    const char* vocabulary;
    int64_t n, V, I, H;
    if (count < 4) return fprintf(stderr, "write LAYERS CHARACTERS LENGTH\n"), 2;
    check(lnrnn_file_open(arguments[1], &layers));
    check(lnrnn_file_open(arguments[2], &characters));
    check(lnrnn_stream_new(layers, 1, LNRNN_FLOAT32, &stream));
    check(lnrnn_file_free(layers));
    check(lnrnn_stream_sizes(stream, NULL, &I, &H, NULL));
    check(lnrnn_file_tensor(characters, "embedding", &embedding, &n, NULL, 0));
    check(lnrnn_file_tensor(characters, "kernel", &kernel, &n, NULL, 0));
    check(lnrnn_file_tensor(characters, "bias", &bias, &V, NULL, 0));
    check(lnrnn_file_text(characters, "vocabulary", &vocabulary));
    float *h = malloc(H * sizeof *h), *logits = malloc(V * sizeof *logits);
    int64_t number = 0;
    for (int length = atoi(arguments[3]); length > 0; --length) {
        check(lnrnn_stream_step(stream, embedding + number * I, h));
        memcpy(logits, bias, V * sizeof *logits);
        for (int64_t i = 0; i < H; ++i)
            for (int64_t v = 0; v < V; ++v) logits[v] += h[i] * kernel[i * V + v];
        for (int64_t v = number = 0; v < V; ++v)
            if (logits[v] > logits[number]) number = v;
        print_character(vocabulary, number);
    }
    putchar('\n');
    free(h), free(logits);
    check(lnrnn_stream_free(stream));
    check(lnrnn_file_free(characters));
    return 0;
}
