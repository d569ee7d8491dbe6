/* Classes of characters from utf8proc's general categories. */
#include "text/classes.h"

#include <utf8proc.h>

#include "text/unicode.h"

bool char_is_space(uint32_t code) { return unicode_class(unicode_table(), code) & CLASS_SPACE; }
bool char_is_numeric(uint32_t code) { return unicode_class(unicode_table(), code) & CLASS_NUMBER; }
bool char_is_mark(uint32_t code) { return unicode_class(unicode_table(), code) & CLASS_MARK; }

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
    if (code < 0x80) return code > 0x20 && code < 0x7F && !(unicode_class(unicode_table(), code) & (CLASS_LETTER | CLASS_NUMBER));
    utf8proc_category_t category = utf8proc_category((int32_t)code);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool char_is_other(uint32_t code) {
    utf8proc_category_t category = utf8proc_category((int32_t)code);
    return category == UTF8PROC_CATEGORY_CN || category >= UTF8PROC_CATEGORY_CC;
}

bool char_is_nonspacing(uint32_t code) { return utf8proc_category((int32_t)code) == UTF8PROC_CATEGORY_MN; }

uint32_t char_lower(uint32_t code) { return (uint32_t)utf8proc_tolower((int32_t)code); }
