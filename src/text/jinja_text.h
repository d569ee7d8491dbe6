/* Operations on strings as Python's str has them: by code points, with Unicode's white space and letter case, and each
 * byte of a result with the marks of the byte that it came from. Indexes and lengths in arguments count code points. */
#ifndef TEXT_JINJA_TEXT_H
#define TEXT_JINJA_TEXT_H

#include "text/jinja_value.h"

/* Bytes of the character that begins here (the text is valid UTF-8). */
static inline size_t text_char(const char *p) {
    unsigned char c = (unsigned char)*p;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}
size_t text_encode(uint32_t code, char out[4]);
size_t text_length(const JStr *s);
/* The byte at which character i begins; the end when there are fewer. */
size_t text_offset(const JStr *s, size_t i);
bool text_is_space(uint32_t code);
/* Bytes of white space at the beginning (at the end) of a text. */
size_t text_space_before(const char *text, size_t n);
size_t text_space_behind(const char *text, size_t n);

/* The first (last) byte offset of the needle within from..to, or SIZE_MAX. */
Status text_find(JRun *r, const JStr *s, const JStr *needle, size_t from, size_t to, size_t *at);
Status text_rfind(JRun *r, const JStr *s, const JStr *needle, size_t from, size_t to, size_t *at);

enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
Status text_strip(JRun *r, const JStr *s, const JStr *chars, int sides, JVal *out); /* chars NULL: white space */
/* sep NULL: runs of white space. most < 0: no limit. */
Status text_split(JRun *r, const JStr *s, const JStr *sep, int64_t most, bool from_right, JVal *out);
Status text_split_lines(JRun *r, const JStr *s, bool keep_ends, JVal *out);
Status text_replace(JRun *r, const JStr *s, const JStr *old, const JStr *new, int64_t most, JVal *out);
Status text_join(JRun *r, const JStr *sep, JVal items, bool strings_only, JVal *out);
Status text_repeat(JRun *r, const JStr *s, int64_t times, JVal *out);
/* s[start:stop:step]; missing bounds are J_MISSING or none. */
Status text_slice(JRun *r, const JStr *s, int64_t start, int64_t step, size_t n, JVal *out);

typedef enum TextCase { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITALIZE, CASE_SWAP, CASE_JINJA_TITLE } TextCase;
Status text_case(JRun *r, const JStr *s, TextCase to, JVal *out);
/* isupper, islower ...; `what` is the name without "is". */
bool text_is(const JStr *s, const char *what);
/* &<>"' as entities; the result is markup. */
Status text_escape(JRun *r, const JStr *s, JVal *out);
/* Filled up to `width` characters on the left, on the right, or ("center") both. */
Status text_pad(JRun *r, const JStr *s, int64_t width, const JStr *fill, char side, JVal *out);

#endif
