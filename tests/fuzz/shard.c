/* Shards of tokens: what is mapped as any of the formats can be read to its end, token by token and document by
 * document, and written again is the same. */
#include <assert.h>

#include "data/shard.h"
#include "fuzz.h"

static void use(const TokenShard *s) {
    int64_t trained = 0;
    int32_t copy[64];
    assert(s->tokens > 0 && s->documents > 0 && s->bounds[0] == 0 && (int64_t)s->bounds[s->documents] == s->tokens);
    for (int64_t d = 0; d < s->documents; d++) {
        int64_t begin = (int64_t)s->bounds[d], end = (int64_t)s->bounds[d + 1];
        assert(begin < end && end <= s->tokens);
        for (int64_t i = begin; i < end; i++) trained += shard_trained(s, begin, i);
        fuzz_touch(&s->lines[d], sizeof s->lines[d]);
    }
    assert(trained <= s->tokens);
    for (int64_t at = 0; at < s->tokens; at += 64) {
        int64_t n = s->tokens - at < 64 ? s->tokens - at : 64;
        shard_copy(s, at, n, copy);
        for (int64_t i = 0; i < n; i++) assert(copy[i] == shard_token(s, at + i));
    }
}

/* What was mapped, written again and mapped. */
static void write_again(const TokenShard *s) {
    TokenShard again;
    char hash[65];
    const char *path = fuzz_other_file();
    Status st = shard_write(s, path, hash);
    assert(st == TANE_OK);
    st = shard_map(&again, path, SHARD_TANE);
    assert(st == TANE_OK && again.tokens == s->tokens && again.documents == s->documents);
    use(&again);
    shard_release(&again);
}

void fuzz_shard(const uint8_t *data, size_t n) {
    const char *path = fuzz_file(data, n);
    ShardFormat found;
    TokenShard s;
    Status st = shard_detect(path, &found);
    assert(st == TANE_OK);
    for (ShardFormat format = SHARD_TANE; format <= SHARD_NANOGPT; format++) {
        if (shard_map(&s, path, format) != TANE_OK) {
            assert(!s.ids && !s.map.data);
            continue;
        }
        use(&s);
        if (format == found) write_again(&s);
        shard_release(&s);
    }
}
