/* What splitting expressions ask of a character: classes of Unicode 16, the version that tiktoken and tokenizers have.
 *
 * The classes come from utf8proc's general categories; what an older utf8proc does not know yet is a short list in
 * unicode.c. The table is built once, at the first use.
 */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stdint.h>

enum {
    CLASS_LETTER = 1,  /* L */
    CLASS_NUMBER = 2,  /* N */
    CLASS_SPACE = 4,   /* White_Space */
    CLASS_MARK = 8,    /* M */
    CLASS_UPPER = 16,  /* Lu, Lt, Lm, Lo, M: what o200k_base lets words begin with */
    CLASS_LOWER = 32,  /* Ll, Lm, Lo, M: what it lets them go on with */
    CLASS_NEWLINE = 64, /* \r \n */
    CLASS_SYMBOL = 128, /* P, S */
    CLASS_KANA_HAN = 256, /* U+4E00-9FA5, U+3040-30FF: DeepSeek-V3's, beside their other classes */
    CLASS_NUMBER_17 = 512 /* numbers that came with Unicode 17: tokenizers' Digits knows them, its expressions do not */
};

/* Classes in two stages: page[code >> 8] says which of `rows` has them. */
typedef struct UnicodeTable {
    uint8_t ascii[256]; /* by byte; 0 from 0x80 on */
    uint16_t page[0x1100];
    uint16_t rows[320][256];
} UnicodeTable;

const UnicodeTable *unicode_table(void);

static inline unsigned unicode_class(const UnicodeTable *table, uint32_t code) {
    return code < 0x110000 ? table->rows[table->page[code >> 8]][code & 255] : 0;
}

#endif
