/* Shards: reading, building, writing. The formats are described in shard.h. */
#include "data/shard.h"

#include <string.h>

#include "base/mem.h"

enum { HEAD = 64, ALIGN = 64, LLMC_HEAD = 1024 };
static const char MAGIC[8] = "TANETOK1";
enum { HAS_MASK = 1, CONTINUES = 2 };
/* llm.c: dev/data/data_common.py; GPT-2 has uint16, Llama 3 uint32. */
enum { LLMC_MAGIC_16 = 20240520, LLMC_VERSION_16 = 1, LLMC_MAGIC_32 = 20240801, LLMC_VERSION_32 = 7 };

typedef struct Head {
    char magic[8];
    uint32_t token_bytes, flags;
    uint64_t tokens, documents;
    uint64_t reserved[4];
} Head;
_Static_assert(sizeof(Head) == HEAD, "the head of a shard has 64 bytes");

static uint64_t aligned(uint64_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }
static uint64_t mask_words(uint64_t tokens) { return (tokens + 63) / 64; }

void shard_copy(const TokenShard *s, int64_t at, int64_t n, int32_t *out) {
    if (s->wide) {
        memcpy(out, (const uint32_t *)s->ids + at, (size_t)n * sizeof *out);
        return;
    }
    const uint16_t *ids = (const uint16_t *)s->ids + at;
    for (int64_t i = 0; i < n; i++) out[i] = ids[i];
}

/* ---- reading ---- */

static Status map_tane(TokenShard *s, const char *path) {
    Head head;
    const uint8_t *data = s->map.data;
    if (s->map.size < HEAD || memcmp(data, MAGIC, sizeof MAGIC) != 0)
        return FAIL(TANE_EFORMAT, "%s: this is no shard of tokens: it does not begin with %.8s", path, MAGIC);
    memcpy(&head, data, sizeof head);
    if ((head.token_bytes != 2 && head.token_bytes != 4) || head.flags & ~(uint32_t)(HAS_MASK | CONTINUES))
        return FAIL(TANE_EFORMAT, "%s: made by a later version of tane, or damaged (%u bytes a token, flags %u)", path,
                    head.token_bytes, head.flags);
    uint64_t room = s->map.size; /* no sum below can wrap: counts are checked against it first */
    if (head.tokens > room || head.documents > room || head.documents == 0)
        return FAIL(TANE_EFORMAT, "%s: cannot hold %llu tokens in %llu documents; prepare the data again", path,
                    (unsigned long long)head.tokens, (unsigned long long)head.documents);
    uint64_t bounds = HEAD + aligned(head.tokens * head.token_bytes),
             lines = bounds + aligned((head.documents + 1) * 8), mask = lines + aligned(head.documents * 8),
             end = mask + (head.flags & HAS_MASK ? aligned(mask_words(head.tokens) * 8) : 0);
    if (end != room)
        return FAIL(TANE_EFORMAT,
                    "%s: has %llu bytes, but its head makes it %llu: it is cut or damaged; prepare the data "
                    "again",
                    path, (unsigned long long)room, (unsigned long long)end);
    s->tokens = (int64_t)head.tokens;
    s->documents = (int64_t)head.documents;
    s->wide = head.token_bytes == 4;
    s->continues = head.flags & CONTINUES;
    s->ids = data + HEAD;
    s->bounds = (const uint64_t *)(data + bounds);
    s->lines = (const uint64_t *)(data + lines);
    s->mask = head.flags & HAS_MASK ? (const uint64_t *)(data + mask) : NULL;
    bool rising = s->bounds[0] == 0 && s->bounds[s->documents] == head.tokens;
    for (int64_t d = 0; rising && d < s->documents; d++) rising = s->bounds[d] < s->bounds[d + 1];
    if (!rising) return FAIL(TANE_EFORMAT, "%s: the bounds of its documents are damaged; prepare the data again", path);
    return TANE_OK;
}

/* A file without documents is one. */
static Status one_document(TokenShard *s, const char *path, size_t head) {
    size_t size = s->wide ? 4 : 2, bytes = s->map.size - head;
    if (bytes == 0)
        return FAIL(TANE_EFORMAT, "%s: %s: it holds no tokens", path,
                    head ? "nothing follows the head" : "the file is empty");
    if (bytes % size)
        return FAIL(TANE_EFORMAT, "%s: %zu bytes are no whole number of tokens of %zu bytes; is it a file of tokens?",
                    path, bytes, size);
    uint64_t *numbers;
    TRY_RETURN(MEM_NEW_ARRAY(&numbers, 3));
    s->owned[0] = numbers;
    s->ids = s->map.data + head;
    s->tokens = (int64_t)(bytes / size);
    s->documents = 1;
    numbers[1] = (uint64_t)s->tokens;
    numbers[2] = 1;
    s->bounds = numbers;
    s->lines = numbers + 2;
    return TANE_OK;
}

static bool llmc_magic(const FileMap *map) {
    int32_t magic = 0;
    if (map->size >= sizeof magic) memcpy(&magic, map->data, sizeof magic);
    return magic == LLMC_MAGIC_16 || magic == LLMC_MAGIC_32;
}

static bool llmc_head(const FileMap *map, int32_t head[3]) {
    if (map->size < LLMC_HEAD) return false;
    memcpy(head, map->data, 3 * sizeof *head);
    return (head[0] == LLMC_MAGIC_16 && head[1] == LLMC_VERSION_16) ||
           (head[0] == LLMC_MAGIC_32 && head[1] == LLMC_VERSION_32);
}

static Status map_llmc(TokenShard *s, const char *path) {
    int32_t head[3];
    if (!llmc_head(&s->map, head))
        return FAIL(TANE_EFORMAT, "%s: this is no shard of llm.c: its head has not %d and version %d, or %d and %d",
                    path, LLMC_MAGIC_16, LLMC_VERSION_16, LLMC_MAGIC_32, LLMC_VERSION_32);
    s->wide = head[0] == LLMC_MAGIC_32;
    TRY_RETURN(one_document(s, path, LLMC_HEAD));
    if (s->tokens != head[2])
        return FAIL(TANE_EFORMAT, "%s: the head says %d tokens, but there are %lld: the file is cut or damaged", path,
                    head[2], (long long)s->tokens);
    return TANE_OK;
}

Status shard_map(TokenShard *out, const char *path, ShardFormat format) {
    *out = (TokenShard){0};
    TRY_RETURN(file_map(path, &out->map));
    Status st = format == SHARD_TANE   ? map_tane(out, path)
                : format == SHARD_LLMC ? map_llmc(out, path)
                                       : one_document(out, path, 0);
    if (st != TANE_OK) shard_release(out);
    return st;
}

Status shard_detect(const char *path, ShardFormat *format) {
    FileMap map;
    TRY_RETURN(file_map(path, &map));
    *format = map.size >= sizeof MAGIC && memcmp(map.data, MAGIC, sizeof MAGIC) == 0 ? SHARD_TANE
              : llmc_magic(&map)                                                     ? SHARD_LLMC
                                                                                     : SHARD_NANOGPT;
    file_unmap(&map);
    return TANE_OK;
}

void shard_release(TokenShard *shard) {
    file_unmap(&shard->map);
    for (int i = 0; i < 4; i++) mem_free(shard->owned[i]);
    *shard = (TokenShard){0};
}

/* ---- building ---- */

void shard_builder_init(ShardBuilder *b, int64_t vocab_size) { *b = (ShardBuilder){.wide = vocab_size > 65536}; }

static Status reserve(ShardBuilder *b, size_t n) {
    if (b->tokens + n > b->cap_tokens) {
        size_t cap = 2 * b->cap_tokens > b->tokens + n ? 2 * b->cap_tokens : b->tokens + n;
        cap = aligned(cap < 1 << 16 ? 1 << 16 : cap);
        TRY_RETURN(mem_grow(&b->ids, b->cap_tokens, cap, b->wide ? 4 : 2));
        TRY_RETURN(mem_grow((void **)&b->mask, b->cap_tokens / 64, cap / 64, sizeof *b->mask));
        b->cap_tokens = cap;
    }
    if (b->documents + 1 >= b->cap_documents) {
        size_t cap = b->cap_documents ? 2 * b->cap_documents : 1024;
        TRY_RETURN(mem_grow((void **)&b->bounds, b->cap_documents, cap, sizeof *b->bounds));
        TRY_RETURN(mem_grow((void **)&b->lines, b->cap_documents, cap, sizeof *b->lines));
        b->cap_documents = cap;
    }
    return TANE_OK;
}

static void add_ids(ShardBuilder *b, const int32_t *ids, size_t n) {
    if (b->wide) {
        memcpy((uint32_t *)b->ids + b->tokens, ids, n * sizeof *ids);
        return;
    }
    uint16_t *to = (uint16_t *)b->ids + b->tokens;
    for (size_t i = 0; i < n; i++) to[i] = (uint16_t)ids[i];
}

/* Returns how many of them are trained on. */
static size_t add_mask(ShardBuilder *b, const uint8_t *mask, size_t n) {
    size_t trained = 0, at = b->tokens, i = 0;
    for (; i < n && at % 8; i++, at++) {
        b->mask[at / 64] |= (uint64_t)(mask[i] != 0) << (at % 64);
        trained += mask[i] != 0;
    }
    for (; i + 8 <= n;
         i += 8, at += 8) { /* eight bytes of 0 or 1 to eight bits: each lands on its own bit of the top byte */
        uint64_t bytes;
        memcpy(&bytes, mask + i, 8);
        uint64_t bits = bytes * 0x0102040810204080u >> 56;
        b->mask[at / 64] |= bits << (at % 64);
        trained += (size_t)__builtin_popcountll(bits);
    }
    for (; i < n; i++, at++) {
        b->mask[at / 64] |= (uint64_t)(mask[i] != 0) << (at % 64);
        trained += mask[i] != 0;
    }
    return trained;
}

Status shard_builder_add(ShardBuilder *b, const int32_t *ids, const uint8_t *mask, size_t n, int64_t line,
                         bool goes_on) {
    TRY_RETURN(reserve(b, n));
    if (n) {
        if (b->tokens == 0) b->continues = b->open;
        bool opens = !b->open; /* a document, not a shard inside one */
        if (opens || b->tokens == 0) b->lines[b->documents++] = (uint64_t)line;
        size_t begin = b->bounds[b->documents - 1];
        add_ids(b, ids, n);
        size_t trained = add_mask(b, mask, n);
        b->masked |= trained + (b->tokens == begin && !mask[0]) < n;
        if (opens && n > 1 && mask[1]) b->mask[begin / 64] |= (uint64_t)1 << (begin % 64);
        b->tokens += n;
        b->bounds[b->documents] = b->tokens;
    }
    b->open = goes_on && (n > 0 || b->open);
    return TANE_OK;
}

void shard_builder_view(const ShardBuilder *b, TokenShard *out) {
    *out = (TokenShard){.tokens = (int64_t)b->tokens,
                        .documents = (int64_t)b->documents,
                        .ids = b->ids,
                        .wide = b->wide,
                        .continues = b->continues,
                        .bounds = b->bounds,
                        .lines = b->lines,
                        .mask = b->masked ? b->mask : NULL};
}

void shard_builder_clear(ShardBuilder *b) {
    if (b->mask) memset(b->mask, 0, mask_words(b->tokens) * sizeof *b->mask);
    b->tokens = b->documents = 0;
    b->masked = false;
}

/* *array (cap) to one of n, unless little would be saved. */
static Status trim(void **array, size_t n, size_t cap, size_t size) {
    void *exact;
    if (cap - n <= n / 16) return TANE_OK;
    TRY_RETURN(mem_new(&exact, n, size));
    memcpy(exact, *array, n * size);
    mem_free(*array);
    *array = exact;
    return TANE_OK;
}

Status shard_builder_take(ShardBuilder *b, TokenShard *out) {
    if (!b->masked) {
        mem_free(b->mask);
        b->mask = NULL;
    }
    TRY_RETURN(trim(&b->ids, b->tokens, b->cap_tokens, b->wide ? 4 : 2));
    TRY_RETURN(trim((void **)&b->bounds, b->documents + 1, b->cap_documents, sizeof *b->bounds));
    TRY_RETURN(trim((void **)&b->lines, b->documents, b->cap_documents, sizeof *b->lines));
    if (b->mask) TRY_RETURN(trim((void **)&b->mask, mask_words(b->tokens), b->cap_tokens / 64, sizeof *b->mask));
    shard_builder_view(b, out);
    void *owned[4] = {b->ids, b->bounds, b->lines, b->mask};
    memcpy(out->owned, owned, sizeof owned);
    *b = (ShardBuilder){.wide = b->wide, .open = b->open};
    return TANE_OK;
}

void shard_builder_free(ShardBuilder *b) {
    mem_free(b->ids);
    mem_free(b->bounds);
    mem_free(b->lines);
    mem_free(b->mask);
    *b = (ShardBuilder){0};
}

/* ---- writing ---- */

static Status write_section(FileWriter *w, const void *bytes, uint64_t n) {
    static const char zeros[ALIGN];
    TRY_RETURN(fw_write(w, bytes, n));
    return fw_write(w, zeros, aligned(n) - n);
}

Status shard_write(const TokenShard *s, const char *path, char sha256_hex[65]) {
    Status st = TANE_OK;
    FileWriter *w = NULL;
    uint64_t tokens = (uint64_t)s->tokens, documents = (uint64_t)s->documents;
    Head head = {.token_bytes = s->wide ? 4 : 2,
                 .flags = (s->mask ? HAS_MASK : 0) | (s->continues ? CONTINUES : 0),
                 .tokens = tokens,
                 .documents = documents};
    memcpy(head.magic, MAGIC, sizeof MAGIC);
    TRY(fw_open(&w, path));
    TRY(write_section(w, &head, sizeof head));
    TRY(write_section(w, s->ids, tokens * head.token_bytes));
    TRY(write_section(w, s->bounds, (documents + 1) * 8));
    TRY(write_section(w, s->lines, documents * 8));
    if (s->mask) TRY(write_section(w, s->mask, mask_words(tokens) * 8));
    TRY(fw_close(&w, NULL, sha256_hex));
out:
    fw_abort(&w);
    return st;
}

Status shard_bare_begin(FileWriter **out, const char *path, ShardFormat format, int64_t total, bool wide) {
    int32_t head[LLMC_HEAD / 4] = {wide ? LLMC_MAGIC_32 : LLMC_MAGIC_16, wide ? LLMC_VERSION_32 : LLMC_VERSION_16,
                                   (int32_t)total};
    if (format == SHARD_NANOGPT && wide)
        return FAIL(TANE_EINVAL, "%s: nanoGPT's files hold 16-bit tokens, but the vocabulary has more than 65,536",
                    path);
    if (format == SHARD_LLMC && total > INT32_MAX)
        return FAIL(TANE_EINVAL,
                    "%s: %lld tokens are more than a shard of llm.c can hold (2,147,483,647); write smaller "
                    "shards",
                    path, (long long)total);
    TRY_RETURN(fw_open(out, path));
    return format == SHARD_LLMC ? fw_write(*out, head, sizeof head) : TANE_OK;
}

Status shard_bare_add(FileWriter *w, const TokenShard *s, int64_t at, int64_t n, bool wide) {
    if (s->wide == wide) return fw_write(w, (const char *)s->ids + at * (wide ? 4 : 2), (size_t)n * (wide ? 4 : 2));
    return FAIL(TANE_EINTERNAL, "shard_bare_add: a shard of another width");
}
