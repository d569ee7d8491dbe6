/* Reading, checking and writing SentencePiece models: see spm_proto.h.
 *
 * Field numbers are those of sentencepiece_model.proto; wire format: https://protobuf.dev/programming-guides/encoding
 */
#include "text/spm_proto.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/utf8.h"

enum {
    MAX_PIECES = 1 << 24,
    MAX_PIECE_BYTES = 8192,  /* bounds the recursion over unused pieces and the time of one lookup */
    MAX_NAME_BYTES = 1024,
    MAX_NESTED_USER = 64,    /* results the library's prefix matcher has room for */
    MAX_NESTED_RULES = 32,   /* the same for its normalizer */
    MAX_REPLACEMENT = 1024   /* bytes one rule may write; NFKC's longest is 33 */
};

/* ---- wire format ---- */

typedef struct Wire {
    const char *where, *start, *p, *end;
} Wire;

typedef struct Field {
    uint32_t number, type; /* 0 varint, 1 fixed64, 2 bytes, 5 fixed32 */
    uint64_t value;
    SpmBytes bytes;
} Field;

static Status broken(const Wire *w, const char *what) {
    return FAIL(TANE_EFORMAT, "%s: not a SentencePiece model, or a damaged one (%s at byte %zu); get the file again",
                w->where, what, (size_t)(w->p - w->start));
}

static bool read_varint(Wire *w, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        uint8_t byte = (uint8_t)*w->p++;
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return shift < 63 || byte < 2;
    }
    return false;
}

static Status read_field(Wire *w, Field *f) {
    uint64_t tag;
    *f = (Field){0};
    if (!read_varint(w, &tag) || tag >> 3 == 0 || tag >> 32) return broken(w, "bad field tag");
    f->number = (uint32_t)(tag >> 3);
    f->type = tag & 7;
    size_t left = (size_t)(w->end - w->p), fixed = f->type == 1 ? 8 : 4;
    switch (f->type) {
    case 0: return read_varint(w, &f->value) ? TANE_OK : broken(w, "truncated number");
    case 1:
    case 5:
        if (left < fixed) return broken(w, "truncated number");
        memcpy(&f->value, w->p, fixed); /* little-endian, as the file */
        w->p += fixed;
        return TANE_OK;
    case 2:
        if (!read_varint(w, &f->value)) return broken(w, "truncated length");
        left = (size_t)(w->end - w->p);
        if (f->value > left) return broken(w, "a length past the end");
        f->bytes = (SpmBytes){w->p, (size_t)f->value};
        w->p += f->value;
        return TANE_OK;
    default: return broken(w, "unknown wire type");
    }
}

static Wire sub_wire(const Wire *w, const Field *f) {
    return (Wire){w->where, w->start, f->bytes.data, f->bytes.data + f->bytes.n};
}

/* A field whose number is known must have the type the format gives it. */
static Status expect(const Wire *w, const Field *f, uint32_t type) {
    return f->type == type ? TANE_OK : broken(w, "a field of the wrong type");
}

/* ---- messages ---- */

static Status parse_piece(SpmProto *proto, Wire w) {
    if (proto->n_pieces == proto->cap) {
        if (proto->n_pieces == MAX_PIECES)
            return FAIL(TANE_EFORMAT, "%s: more than %d pieces; tane reads at most that many", w.where, MAX_PIECES);
        size_t cap = proto->cap ? 2 * proto->cap : 256;
        TRY_RETURN(mem_grow((void **)&proto->pieces, proto->n_pieces, cap, sizeof *proto->pieces));
        proto->cap = cap;
    }
    SpmPiece *piece = &proto->pieces[proto->n_pieces];
    *piece = (SpmPiece){.type = SPM_NORMAL};
    while (w.p < w.end) {
        Field f;
        TRY_RETURN(read_field(&w, &f));
        if (f.number == 1) {
            TRY_RETURN(expect(&w, &f, 2));
            piece->text = f.bytes;
        } else if (f.number == 2) {
            TRY_RETURN(expect(&w, &f, 5));
            memcpy(&piece->score, &f.value, 4);
        } else if (f.number == 3) {
            TRY_RETURN(expect(&w, &f, 0));
            if (f.value < SPM_NORMAL || f.value > SPM_BYTE)
                return FAIL(TANE_EFORMAT, "%s: piece %zu has type %llu; known types are 1 to 6", w.where,
                            proto->n_pieces, (unsigned long long)f.value);
            piece->type = (SpmPieceType)f.value;
        }
    }
    /* Here and not in the check: a million empty pieces must not cost memory first. */
    if (piece->text.n == 0) return FAIL(TANE_EFORMAT, "%s: piece %zu is empty", w.where, proto->n_pieces);
    proto->n_pieces++;
    return TANE_OK;
}

static Status parse_trainer(SpmProto *proto, Wire w) {
    while (w.p < w.end) {
        Field f;
        TRY_RETURN(read_field(&w, &f));
        SpmBytes *name = f.number == 44   ? &proto->unk_surface
                         : f.number == 45 ? &proto->unk_piece
                         : f.number == 46 ? &proto->bos_piece
                         : f.number == 47 ? &proto->eos_piece
                         : f.number == 48 ? &proto->pad_piece
                                          : NULL;
        if (name) {
            TRY_RETURN(expect(&w, &f, 2));
            *name = f.bytes;
        } else if (f.number == 3) {
            TRY_RETURN(expect(&w, &f, 0));
            if (f.value < SPM_UNIGRAM || f.value > SPM_CHAR)
                return FAIL(TANE_EFORMAT, "%s: model type %llu is unknown; 1 unigram, 2 BPE, 3 word, 4 char", w.where,
                            (unsigned long long)f.value);
            proto->type = (SpmModelType)f.value;
        } else if (f.number == 24 || f.number == 35) {
            TRY_RETURN(expect(&w, &f, 0));
            *(f.number == 24 ? &proto->treat_whitespace_as_suffix : &proto->byte_fallback) = f.value != 0;
        }
    }
    return TANE_OK;
}

static Status parse_normalizer(SpmNormalizer *norm, Wire w) {
    while (w.p < w.end) {
        Field f;
        TRY_RETURN(read_field(&w, &f));
        if (f.number == 2) {
            TRY_RETURN(expect(&w, &f, 2));
            norm->charsmap = f.bytes;
        } else if (f.number >= 3 && f.number <= 5) {
            TRY_RETURN(expect(&w, &f, 0));
            *(f.number == 3   ? &norm->add_dummy_prefix
              : f.number == 4 ? &norm->remove_extra_whitespaces
                              : &norm->escape_whitespaces) = f.value != 0;
        }
    }
    return TANE_OK;
}

static SpmBytes literal(const char *text) { return (SpmBytes){text, strlen(text)}; }

Status spm_proto_parse(SpmProto *proto, const char *where, const char *data, size_t n) {
    SpmNormalizer norm = {.add_dummy_prefix = true, .remove_extra_whitespaces = true, .escape_whitespaces = true};
    *proto = (SpmProto){.type = SPM_UNIGRAM, .normalizer = norm, .denormalizer = norm};
    proto->unk_piece = literal("<unk>");
    proto->bos_piece = literal("<s>");
    proto->eos_piece = literal("</s>");
    proto->pad_piece = literal("<pad>");
    if (n == 0) return FAIL(TANE_EFORMAT, "%s: the file is empty; a SentencePiece model was expected", where);
    Wire w = {where, data, data, data + n};
    while (w.p < w.end) {
        Field f;
        TRY_RETURN(read_field(&w, &f));
        proto->has_trainer |= f.number == 2;
        proto->has_normalizer |= f.number == 3;
        if (f.number == 1 || f.number == 2 || f.number == 3 || f.number == 5) TRY_RETURN(expect(&w, &f, 2));
        switch (f.number) {
        case 1: TRY_RETURN(parse_piece(proto, sub_wire(&w, &f))); break;
        case 2: TRY_RETURN(parse_trainer(proto, sub_wire(&w, &f))); break;
        case 3: TRY_RETURN(parse_normalizer(&proto->normalizer, sub_wire(&w, &f))); break;
        case 5: TRY_RETURN(parse_normalizer(&proto->denormalizer, sub_wire(&w, &f))); break;
        default: break; /* self-test data and what later versions add */
        }
    }
    return TANE_OK;
}

void spm_proto_free(SpmProto *proto) {
    mem_free(proto->pieces);
    proto->pieces = NULL;
}

const char *spm_piece_type_name(SpmPieceType type) {
    static const char *const names[] = {"?", "normal", "unknown", "control", "user-defined", "unused", "byte"};
    return names[type];
}

/* ---- checks ---- */

/* Bytes compared as unsigned, shorter first where one begins the other: prefixes come right before what they begin. */
static int compare_pieces(const void *a, const void *b) {
    const SpmBytes *x = &(*(const SpmPiece *const *)a)->text, *y = &(*(const SpmPiece *const *)b)->text;
    int order = memcmp(x->data, y->data, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static bool begins(const SpmBytes *prefix, const SpmBytes *text) {
    return prefix->n <= text->n && memcmp(prefix->data, text->data, prefix->n) == 0;
}

static Status check_text(const char *where, const char *what, SpmBytes text, size_t max) {
    if (text.n > max) return FAIL(TANE_EFORMAT, "%s: %s is %zu bytes long; at most %zu", where, what, text.n, max);
    if (text.n && memchr(text.data, 0, text.n)) return FAIL(TANE_EFORMAT, "%s: %s contains a NUL character", where, what);
    uint32_t code;
    for (size_t i = 0, len; i < text.n; i += len)
        if (!(len = utf8_decode(text.data + i, text.n - i, &code)))
            return FAIL(TANE_EFORMAT, "%s: %s is not valid UTF-8", where, what);
    return TANE_OK;
}

static Status check_pieces(const SpmProto *proto, const char *where, bool byte_found[256]) {
    size_t unknown = 0, in_trie = 0;
    for (size_t i = 0; i < proto->n_pieces; i++) {
        const SpmPiece *piece = &proto->pieces[i];
        char what[32];
        snprintf(what, sizeof what, "piece %zu", i);
        TRY_RETURN(check_text(where, what, piece->text, MAX_PIECE_BYTES));
        if (!isfinite(piece->score)) return FAIL(TANE_EFORMAT, "%s: the score of piece %zu is not finite", where, i);
        unknown += piece->type == SPM_UNKNOWN;
        in_trie += piece->type == SPM_NORMAL || piece->type == SPM_USER_DEFINED || piece->type == SPM_UNUSED;
        if (piece->type == SPM_BYTE) {
            char text[8];
            unsigned byte = 0;
            memcpy(text, piece->text.data, piece->text.n < 7 ? piece->text.n : 7);
            text[piece->text.n < 7 ? piece->text.n : 7] = 0;
            bool named = piece->text.n == 6 && sscanf(text, "<0x%2X>", &byte) == 1;
            char again[8];
            snprintf(again, sizeof again, "<0x%02X>", byte & 0xFF);
            if (!named || memcmp(again, text, 6) != 0)
                return FAIL(TANE_EFORMAT, "%s: byte piece %zu is \"%s\", not <0x00> to <0xFF>", where, i, text);
            byte_found[byte] = true;
            if (!proto->byte_fallback)
                return FAIL(TANE_EFORMAT, "%s: piece %zu stands for a byte, but byte_fallback is off", where, i);
        }
    }
    if (unknown != 1)
        return FAIL(TANE_EFORMAT, "%s: %zu pieces of the type \"unknown\"; a model needs exactly one", where, unknown);
    if (in_trie == 0) return FAIL(TANE_EFORMAT, "%s: the model has no piece of text", where);
    return TANE_OK;
}

/* No piece twice, and no deeper nesting of user-defined pieces ("a", "aa", "aaa", ...) than the matcher holds. */
static Status check_distinct(const SpmProto *proto, const char *where) {
    Status st = TANE_OK;
    const SpmPiece **sorted = NULL, *nest[MAX_NESTED_USER];
    size_t depth = 0;
    TRY(MEM_NEW_ARRAY(&sorted, proto->n_pieces));
    for (size_t i = 0; i < proto->n_pieces; i++) sorted[i] = &proto->pieces[i];
    qsort(sorted, proto->n_pieces, sizeof *sorted, compare_pieces);
    for (size_t i = 0; i < proto->n_pieces; i++) {
        const SpmPiece *piece = sorted[i];
        if (i && compare_pieces(&sorted[i - 1], &sorted[i]) == 0) {
            st = FAIL(TANE_EFORMAT, "%s: pieces %zu and %zu are the same, \"%.*s\"", where,
                      (size_t)(sorted[i - 1] - proto->pieces), (size_t)(piece - proto->pieces), (int)piece->text.n,
                      piece->text.data);
            goto out;
        }
        if (piece->type != SPM_USER_DEFINED) continue;
        while (depth && !begins(&nest[depth - 1]->text, &piece->text)) depth--;
        if (depth == MAX_NESTED_USER) {
            st = FAIL(TANE_EFORMAT, "%s: more than %d user-defined pieces begin one another (up to piece %zu)", where,
                      MAX_NESTED_USER, (size_t)(piece - proto->pieces));
            goto out;
        }
        nest[depth++] = piece;
    }
out:
    mem_free(sorted);
    return st;
}

/* A walk over the character map's double-array trie (Darts-clone). A node is a position; the child for byte c of a node
 * with base b sits at b ^ c. Every position a lookup can touch must lie inside the array, every value must point at a
 * NUL-terminated text, and no path may meet more rules than the library has room for. */
typedef struct Trie {
    const char *where;
    const uint32_t *units;
    size_t n;
    SpmBytes texts;
    uint8_t *rules; /* (n): most rules on a path below this base, + 2; 0: not seen, 1: on the current path */
    int depth;
} Trie;

static Status check_base(Trie *trie, size_t base, int *rules);

static Status check_unit(Trie *trie, size_t position, int *rules) {
    uint32_t unit = trie->units[position];
    size_t base = position ^ ((size_t)(unit >> 10) << ((unit & 1u << 9) >> 6));
    *rules = 0;
    TRY_RETURN(check_base(trie, base, rules));
    if (!(unit >> 8 & 1)) return TANE_OK;
    size_t value = trie->units[base] & 0x7FFFFFFFu;
    size_t room = value < trie->texts.n ? trie->texts.n - value : 0;
    if (room > MAX_REPLACEMENT) room = MAX_REPLACEMENT;
    if (!room || !memchr(trie->texts.data + value, 0, room))
        return FAIL(TANE_EFORMAT, "%s: a rule of the character map points outside its texts", trie->where);
    if (++*rules > MAX_NESTED_RULES)
        return FAIL(TANE_EFORMAT, "%s: more than %d rules of the character map begin one another", trie->where,
                    MAX_NESTED_RULES);
    return TANE_OK;
}

static Status check_base(Trie *trie, size_t base, int *rules) {
    if ((base | 0xFF) >= trie->n)
        return FAIL(TANE_EFORMAT, "%s: the character map points outside itself", trie->where);
    if (trie->rules[base] == 1 || trie->depth > MAX_NAME_BYTES)
        return FAIL(TANE_EFORMAT, "%s: the character map never ends", trie->where);
    if (trie->rules[base] >= 2) {
        *rules = trie->rules[base] - 2;
        return TANE_OK;
    }
    trie->rules[base] = 1;
    trie->depth++;
    int most = 0;
    for (unsigned c = 0; c < 256; c++) {
        size_t child = base ^ c;
        if ((trie->units[child] & (1u << 31 | 0xFF)) != c) continue;
        int below;
        TRY_RETURN(check_unit(trie, child, &below));
        if (below > most) most = below;
    }
    trie->depth--;
    trie->rules[base] = (uint8_t)(most + 2);
    *rules = most;
    return TANE_OK;
}

static Status check_charsmap(const SpmNormalizer *norm, const char *where) {
    SpmBytes map = norm->charsmap;
    if (map.n == 0) return TANE_OK;
    uint32_t size = 0;
    if (map.n > 4) memcpy(&size, map.data, 4);
    if (map.n <= 4 || size < 1024 || size % 4 || size > map.n - 4)
        return FAIL(TANE_EFORMAT, "%s: the character map is truncated or damaged (%zu bytes)", where, map.n);
    Status st = TANE_OK;
    uint32_t *units = NULL;
    Trie trie = {.where = where, .n = size / 4, .texts = {map.data + 4 + size, map.n - 4 - size}};
    TRY(MEM_NEW_ARRAY(&units, trie.n)); /* the file's bytes need not be aligned */
    memcpy(units, map.data + 4, size);
    trie.units = units;
    TRY(MEM_NEW_ARRAY(&trie.rules, trie.n));
    int rules;
    TRY(check_unit(&trie, 0, &rules));
out:
    mem_free(trie.rules);
    mem_free(units);
    return st;
}

Status spm_proto_check(const SpmProto *proto, const char *where) {
    bool byte_found[256] = {false};
    if (proto->n_pieces == 0)
        return FAIL(TANE_EFORMAT, "%s: no pieces in it; a SentencePiece model was expected", where);
    /* SentencePiece writes both, behind the pieces: without them the file was cut at just the right place. */
    if (!proto->has_trainer || !proto->has_normalizer)
        return FAIL(TANE_EFORMAT, "%s: the model ends behind %zu pieces, without its %s; get the file again", where,
                    proto->n_pieces, proto->has_trainer ? "normalizer_spec" : "trainer_spec");
    TRY_RETURN(check_pieces(proto, where, byte_found));
    TRY_RETURN(check_distinct(proto, where));
    for (int i = 0; proto->byte_fallback && i < 256; i++)
        if (!byte_found[i])
            return FAIL(TANE_EFORMAT, "%s: byte_fallback is on, but the piece <0x%02X> is missing", where, i);
    TRY_RETURN(check_text(where, "unk_surface", proto->unk_surface, MAX_NAME_BYTES));
    TRY_RETURN(check_text(where, "unk_piece", proto->unk_piece, MAX_PIECE_BYTES));
    TRY_RETURN(check_text(where, "bos_piece", proto->bos_piece, MAX_PIECE_BYTES));
    TRY_RETURN(check_text(where, "eos_piece", proto->eos_piece, MAX_PIECE_BYTES));
    TRY_RETURN(check_text(where, "pad_piece", proto->pad_piece, MAX_PIECE_BYTES));
    TRY_RETURN(check_charsmap(&proto->normalizer, where));
    return check_charsmap(&proto->denormalizer, where);
}

/* ---- writing ---- */

static Status put_varint(Str *out, uint64_t value) {
    char bytes[10];
    size_t n = 0;
    for (; value >= 0x80; value >>= 7) bytes[n++] = (char)(value | 0x80);
    bytes[n++] = (char)value;
    return str_add(out, bytes, n);
}

static Status put_number(Str *out, uint32_t field, uint64_t value) {
    TRY_RETURN(put_varint(out, field << 3));
    return put_varint(out, value);
}

static Status put_bytes(Str *out, uint32_t field, const char *data, size_t n) {
    TRY_RETURN(put_varint(out, field << 3 | 2));
    TRY_RETURN(put_varint(out, n));
    return str_add(out, data, n);
}

static Status put_normalizer(Str *out, uint32_t field, const SpmNormalizer *norm, Str *sub) {
    sub->len = 0;
    TRY_RETURN(put_bytes(sub, 2, norm->charsmap.data, norm->charsmap.n));
    TRY_RETURN(put_number(sub, 3, norm->add_dummy_prefix));
    TRY_RETURN(put_number(sub, 4, norm->remove_extra_whitespaces));
    TRY_RETURN(put_number(sub, 5, norm->escape_whitespaces));
    return put_bytes(out, field, sub->text, sub->len);
}

static Status put_trainer(Str *out, const SpmProto *proto, Str *sub) {
    sub->len = 0;
    TRY_RETURN(put_number(sub, 3, proto->type));
    TRY_RETURN(put_number(sub, 24, proto->treat_whitespace_as_suffix));
    TRY_RETURN(put_number(sub, 35, proto->byte_fallback));
    if (proto->unk_surface.data) TRY_RETURN(put_bytes(sub, 44, proto->unk_surface.data, proto->unk_surface.n));
    TRY_RETURN(put_bytes(sub, 45, proto->unk_piece.data, proto->unk_piece.n));
    TRY_RETURN(put_bytes(sub, 46, proto->bos_piece.data, proto->bos_piece.n));
    TRY_RETURN(put_bytes(sub, 47, proto->eos_piece.data, proto->eos_piece.n));
    TRY_RETURN(put_bytes(sub, 48, proto->pad_piece.data, proto->pad_piece.n));
    return put_bytes(out, 2, sub->text, sub->len);
}

Status spm_proto_write(const SpmProto *proto, Str *out) {
    Status st = TANE_OK;
    Str sub = {0};
    for (size_t i = 0; i < proto->n_pieces; i++) {
        const SpmPiece *piece = &proto->pieces[i];
        sub.len = 0;
        TRY(put_bytes(&sub, 1, piece->text.data, piece->text.n));
        TRY(put_varint(&sub, 2 << 3 | 5));
        TRY(str_add(&sub, (const char *)&piece->score, 4));
        TRY(put_number(&sub, 3, piece->type));
        TRY(put_bytes(out, 1, sub.text, sub.len));
    }
    TRY(put_trainer(out, proto, &sub));
    TRY(put_normalizer(out, 3, &proto->normalizer, &sub));
    if (proto->denormalizer.charsmap.n) TRY(put_normalizer(out, 5, &proto->denormalizer, &sub));
out:
    str_free(&sub);
    return st;
}
