/* The double-array trie is that of the Darts library: a unit is 32 bits, with a label, a leaf flag and an offset, or
 * the value of a leaf. It comes from a file, so every step is checked against the array's end. */
#include "text/charsmap.h"

#include <string.h>

#include <utf8proc.h>

#include "text/utf8.h"

enum { MAX_CLUSTER = 5 }; /* bytes of a cluster that is looked up whole */

struct Charsmap {
    const uint8_t *units; /* (n_units), little-endian, unaligned */
    size_t n_units;
    const char *texts; /* (n_texts) */
    size_t n_texts;
};

static uint32_t read_u32(const uint8_t *b) {
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

Status charsmap_new(Charsmap **out, const char *where, Bytes bytes) {
    *out = NULL;
    const uint8_t *data = (const uint8_t *)bytes.data;
    uint32_t size = bytes.n >= 4 ? read_u32(data) : 0;
    if (bytes.n < 4 || size > bytes.n - 4 || size % 4)
        return FAIL(TANE_EFORMAT, "%s: precompiled_charsmap of %zu bytes is cut short: its trie alone has %u", where,
                    bytes.n, size);
    Charsmap map = {data + 4, size / 4, bytes.data + 4 + size, bytes.n - 4 - size};
    size_t valid = utf8_valid(map.texts, map.n_texts);
    if (valid < map.n_texts)
        return FAIL(TANE_EFORMAT, "%s: precompiled_charsmap is not UTF-8 at byte %zu of its texts", where, valid);
    TRY_RETURN(MEM_NEW(out));
    **out = map;
    return TANE_OK;
}

void charsmap_free(Charsmap *map) { mem_free(map); }

static size_t offset_of(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6); }

/* The text behind the shortest beginning of key[0..n) in the map. */
static bool lookup(const Charsmap *map, const char *key, size_t n, Bytes *out) {
    if (map->n_units == 0) return false;
    size_t node = offset_of(read_u32(map->units));
    for (size_t i = 0; i < n && key[i]; i++) {
        node ^= (uint8_t)key[i];
        if (node >= map->n_units) return false;
        uint32_t unit = read_u32(map->units + 4 * node);
        if ((unit & 0x800000FF) != (uint8_t)key[i]) return false;
        node ^= offset_of(unit);
        if (!(unit >> 8 & 1)) continue;
        if (node >= map->n_units) return false;
        size_t at = read_u32(map->units + 4 * node) & 0x7FFFFFFF;
        if (at >= map->n_texts || ((uint8_t)map->texts[at] & 0xC0) == 0x80) return false;
        *out = (Bytes){map->texts + at, strnlen(map->texts + at, map->n_texts - at)};
        return true;
    }
    return false;
}

/* The end of the grapheme cluster at `at`. */
static size_t cluster_end(const char *text, size_t n, size_t at) {
    uint32_t code = 0, next = 0;
    utf8proc_int32_t state = 0;
    at += utf8_decode(text + at, n - at, &code);
    for (size_t len; (len = utf8_decode(text + at, n - at, &next)); at += len, code = next)
        if (utf8proc_grapheme_break_stateful((int32_t)code, (int32_t)next, &state)) break;
    return at;
}

/* ASCII before ASCII is a cluster of its own, but for \r\n. */
static bool is_plain(const char *text, size_t n, size_t at) {
    return (uint8_t)text[at] < 0x80 && (at + 1 == n || (uint8_t)text[at + 1] < 0x80) && text[at] != '\r';
}

/* The n bytes at `at` become `with`, whose characters come, each, from the character in its place; what it has more
 * than they come from the last one. */
static Status put_mapped(const Pieces *in, size_t at, size_t n, Bytes with, Pieces *out) {
    size_t from = at, last = at;
    uint32_t code = 0;
    for (size_t i = 0, len; i < with.n; i += len) {
        len = utf8_decode(with.data + i, with.n - i, &code);
        if (!len) return TANE_OK; /* cut by the NUL in the middle of a character: cannot be */
        if (from < at + n) last = from;
        TRY_RETURN(pieces_put(out, with.data + i, len, pieces_origin(in, last)));
        if (from < at + n) from += utf8_decode(in->text.text + from, at + n - from, &code);
    }
    return TANE_OK;
}

Status charsmap_run(const Charsmap *map, const Pieces *in, Pieces *out) {
    const char *text = in->text.text;
    size_t n = in->text.len;
    Bytes with;
    for (size_t at = 0, end; at < n; at = end) {
        end = is_plain(text, n, at) ? at + 1 : cluster_end(text, n, at);
        if (end - at <= MAX_CLUSTER && lookup(map, text + at, end - at, &with)) {
            TRY_RETURN(put_mapped(in, at, end - at, with, out));
            continue;
        }
        uint32_t code = 0;
        for (size_t len; at < end; at += len) {
            len = utf8_decode(text + at, end - at, &code);
            if (lookup(map, text + at, len, &with)) TRY_RETURN(put_mapped(in, at, len, with, out));
            else TRY_RETURN(pieces_copy(out, in, at, at + len));
        }
    }
    /* What was dropped in front counts as part of the first character, as in the reference: it begins the input still.
     */
    for (size_t i = 0; out->aligned && i < out->text.len && (i == 0 || ((uint8_t)out->text.text[i] & 0xC0) == 0x80);
         i++)
        out->origin[i].begin = in->origin[0].begin;
    return TANE_OK;
}
