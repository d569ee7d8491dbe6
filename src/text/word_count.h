/* Counts the words of a text, as a splitting expression cuts it, on all threads: what training a vocabulary begins
 * with.
 *
 * Memory goes by the different words, not by the text: each thread has a table of those it met, and small texts are
 * gathered in a buffer of WORD_COUNT_BUFFER bytes until there is work for all threads.
 */
#ifndef TEXT_WORD_COUNT_H
#define TEXT_WORD_COUNT_H

#include "text/scan.h"

enum { WORD_COUNT_BUFFER = 8 << 20 };

typedef struct WordCounter WordCounter;

/* The scanner is borrowed until word_counter_free. */
Status word_counter_new(WordCounter **out, const Scanner *scanner, int threads);
void word_counter_free(WordCounter *c); /* NULL is fine */

/* One text: no word reaches into the next one. Bytes that are not UTF-8 are TANE_EFORMAT, told now or by a later call.
 */
Status word_counter_add(WordCounter *c, const char *text, size_t n);

/* The words in no particular order: word i is bytes[starts[i]..starts[i + 1]) and occurs counts[i] > 0 times. */
typedef struct WordList {
    char *bytes;
    uint64_t *starts; /* (n + 1) */
    int64_t *counts;  /* (n) */
    size_t n;
} WordList;
/* Once, behind the last text. Releases most of what the counter holds. */
Status word_counter_finish(WordCounter *c, WordList *list);
void word_list_free(WordList *list);

#endif
