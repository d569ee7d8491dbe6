/* Builds the table of classes from utf8proc's categories and the list of what Unicode 16 added to version 15. */
#include "text/unicode.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include <utf8proc.h>

enum {
    U = CLASS_LETTER | CLASS_UPPER,
    W = CLASS_LETTER | CLASS_LOWER,
    B = CLASS_LETTER | CLASS_UPPER | CLASS_LOWER,
    M = CLASS_MARK | CLASS_UPPER | CLASS_LOWER,
    N = CLASS_NUMBER,
    P = CLASS_SYMBOL
};

/* Assigned between Unicode 15.0, Debian 12's utf8proc, and 16.0; ascending. Only asked about code points that utf8proc
 * calls unassigned. */
static const struct Added {
    uint32_t first, last;
    uint8_t class;
} added[] = {
    {0x897, 0x897, M}, {0x1B4E, 0x1B4F, P}, {0x1B7F, 0x1B7F, P}, {0x1C89, 0x1C89, U}, {0x1C8A, 0x1C8A, W},
    {0x2427, 0x2429, P}, {0x2FFC, 0x2FFF, P}, {0x31E4, 0x31E5, P}, {0x31EF, 0x31EF, P}, {0xA7CB, 0xA7CC, U},
    {0xA7CD, 0xA7CD, W}, {0xA7DA, 0xA7DA, U}, {0xA7DB, 0xA7DB, W}, {0xA7DC, 0xA7DC, U}, {0x105C0, 0x105F3, B},
    {0x10D40, 0x10D49, N}, {0x10D4A, 0x10D4F, B}, {0x10D50, 0x10D65, U}, {0x10D69, 0x10D6D, M}, {0x10D6E, 0x10D6E, P},
    {0x10D6F, 0x10D6F, B}, {0x10D70, 0x10D85, W}, {0x10D8E, 0x10D8F, P}, {0x10EC2, 0x10EC4, B}, {0x10EFC, 0x10EFC, M},
    {0x11380, 0x11389, B}, {0x1138B, 0x1138B, B}, {0x1138E, 0x1138E, B}, {0x11390, 0x113B5, B}, {0x113B7, 0x113B7, B},
    {0x113B8, 0x113C0, M}, {0x113C2, 0x113C2, M}, {0x113C5, 0x113C5, M}, {0x113C7, 0x113CA, M}, {0x113CC, 0x113D0, M},
    {0x113D1, 0x113D1, B}, {0x113D2, 0x113D2, M}, {0x113D3, 0x113D3, B}, {0x113D4, 0x113D5, P}, {0x113D7, 0x113D8, P},
    {0x113E1, 0x113E2, M}, {0x116D0, 0x116E3, N}, {0x11BC0, 0x11BE0, B}, {0x11BE1, 0x11BE1, P}, {0x11BF0, 0x11BF9, N},
    {0x11F5A, 0x11F5A, M}, {0x13460, 0x143FA, B}, {0x16100, 0x1611D, B}, {0x1611E, 0x1612F, M}, {0x16130, 0x16139, N},
    {0x16D40, 0x16D6C, B}, {0x16D6D, 0x16D6F, P}, {0x16D70, 0x16D79, N}, {0x18CFF, 0x18CFF, B}, {0x1CC00, 0x1CCEF, P},
    {0x1CCF0, 0x1CCF9, N}, {0x1CD00, 0x1CEB3, P}, {0x1E5D0, 0x1E5ED, B}, {0x1E5EE, 0x1E5EF, M}, {0x1E5F0, 0x1E5F0, B},
    {0x1E5F1, 0x1E5FA, N}, {0x1E5FF, 0x1E5FF, P}, {0x1F8B2, 0x1F8BB, P}, {0x1F8C0, 0x1F8C1, P}, {0x1FA89, 0x1FA89, P},
    {0x1FA8F, 0x1FA8F, P}, {0x1FABE, 0x1FABE, P}, {0x1FAC6, 0x1FAC6, P}, {0x1FADC, 0x1FADC, P}, {0x1FADF, 0x1FADF, P},
    {0x1FAE9, 0x1FAE9, P}, {0x1FBCB, 0x1FBEF, P}, {0x2EBF0, 0x2EE5D, B},
};

/* *next: the row of `added` to look at, for code points that come in ascending order. */
static uint8_t class_of_unassigned(uint32_t code, size_t *next) {
    while (*next < sizeof added / sizeof *added && added[*next].last < code) ++*next;
    return *next < sizeof added / sizeof *added && added[*next].first <= code ? added[*next].class : 0;
}

static uint16_t class_of(int32_t code, size_t *next) {
    if (code == '\r' || code == '\n') return CLASS_SPACE | CLASS_NEWLINE;
    if (code == '\t' || code == '\v' || code == '\f' || code == 0x85) return CLASS_SPACE;
    switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT: return U;
    case UTF8PROC_CATEGORY_LL: return W;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return B;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return M;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return N;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO: return P;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return CLASS_SPACE;
    case UTF8PROC_CATEGORY_CN: return class_of_unassigned((uint32_t)code, next);
    default: return 0;
    }
}

static UnicodeTable table;

/* Planes 0 to 3 and 14 have what is assigned; the others are all alike (private or nothing), and so are most pages. */
static void build(void) {
    size_t rows = 1, next = 0; /* row 0: no class at all */
    for (uint32_t page = 0; page < 0x1100; page++) {
        uint16_t row[256];
        size_t same = 0;
        if (page >= 0x400 && page >> 8 != 14) continue;
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t code = page << 8 | i;
            bool kana_han = (code >= 0x3040 && code <= 0x30FF) || (code >= 0x4E00 && code <= 0x9FA5);
            bool young = (code >= 0x11DE0 && code <= 0x11DE9) || (code >= 0x16FF4 && code <= 0x16FF6);
            row[i] = class_of((int32_t)code, &next) | (kana_han ? CLASS_KANA_HAN : 0) | (young ? CLASS_NUMBER_17 : 0);
        }
        while (same < rows && memcmp(table.rows[same], row, sizeof row) != 0) same++;
        if (same == rows && rows < sizeof table.rows / sizeof *table.rows) memcpy(table.rows[rows++], row, sizeof row);
        table.page[page] = (uint16_t)same;
    }
    for (int i = 0; i < 128; i++) table.ascii[i] = (uint8_t)table.rows[table.page[0]][i];
}

const UnicodeTable *unicode_table(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build);
    return &table;
}
