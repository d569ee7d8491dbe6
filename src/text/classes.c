/* Classes of characters from utf8proc's general categories, and from a table of where the reference's differ. */
#include "text/classes.h"

#include <utf8proc.h>

#include "text/unicode.h"

/* classes.def's letters */
enum { P = 1, C = 2, N = 4, M = 8, K = 16, D = 32 };

static const struct Old {
    uint32_t first, last;
    unsigned properties;
} old[] = {
#define OLD(first, last, properties) {first, last, properties},
#include "text/classes.def"
#undef OLD
};

/* Is this property of the character another one in the reference? */
static bool differs(uint32_t code, unsigned property) {
    size_t lo = 0, hi = sizeof old / sizeof *old;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (code > old[mid].last) lo = mid + 1;
        else if (code < old[mid].first) hi = mid;
        else return old[mid].properties & property;
    }
    return false;
}

bool char_is_space(uint32_t code) { return unicode_class(unicode_table(), code) & CLASS_SPACE; }

/* Rust's own tables are of Unicode 17. */
bool char_is_numeric(uint32_t code) {
    return unicode_class(unicode_table(), code) & CLASS_NUMBER || (code >= 0x11DE0 && code <= 0x11DE9) ||
           (code >= 0x16FF4 && code <= 0x16FF6);
}

/* Alphabetic, M, Nd, Pc, Join_Control: the letters in circles and squares are alphabetic symbols. */
bool char_is_word(uint32_t code) {
    unsigned classes = unicode_class(unicode_table(), code);
    if (classes & (CLASS_LETTER | CLASS_MARK)) return true;
    if (classes & CLASS_NUMBER) return utf8proc_category((int32_t)code) != UTF8PROC_CATEGORY_NO;
    return utf8proc_category((int32_t)code) == UTF8PROC_CATEGORY_PC || code == 0x200C || code == 0x200D ||
           (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
           (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
}

bool char_is_punctuation(uint32_t code) {
    if (code < 0x80)
        return code > ' ' && code < 0x7F && !(unicode_table()->ascii[code] & (CLASS_LETTER | CLASS_NUMBER));
    utf8proc_category_t category = utf8proc_category((int32_t)code);
    return (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO) != differs(code, P);
}

bool char_is_other(uint32_t code) {
    return (utf8proc_category((int32_t)code) >= UTF8PROC_CATEGORY_CC) != differs(code, C);
}

bool char_is_mark(uint32_t code) {
    return (bool)(unicode_class(unicode_table(), code) & CLASS_MARK) != differs(code, M);
}

bool char_is_nonspacing(uint32_t code) {
    return (utf8proc_category((int32_t)code) == UTF8PROC_CATEGORY_MN) != differs(code, N);
}

int char_combining_class(uint32_t code) {
    return differs(code, K) ? 0 : utf8proc_get_property((int32_t)code)->combining_class;
}

bool char_decomposes(uint32_t code) { return !differs(code, D); }

/* What Unicode 16 and 17 added and an older utf8proc lacks. */
static uint32_t newer_lower(uint32_t code) {
    if (code >= 0x10D50 && code <= 0x10D65) return code + 0x20;
    if (code >= 0x16EA0 && code <= 0x16EB8) return code + 0x1B;
    switch (code) {
    case 0xA7CB: return 0x264;
    case 0xA7DC: return 0x19B;
    case 0x1C89:
    case 0xA7CC:
    case 0xA7CE:
    case 0xA7D2:
    case 0xA7D4:
    case 0xA7DA: return code + 1;
    default: return code;
    }
}

uint32_t char_lower(uint32_t code) {
    uint32_t lower = (uint32_t)utf8proc_tolower((int32_t)code);
    return lower != code ? lower : newer_lower(code);
}
