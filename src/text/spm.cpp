/* libsentencepiece behind extern "C": see spm.h. */
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

extern "C" {
#include "text/spm.h"
#include "text/tokenizer_kind.h"
}

namespace sentencepiece {
namespace logging {
void SetMinLogLevel(int level); /* exported, but declared only in a header that is not installed */
}
} // namespace sentencepiece

namespace sp = sentencepiece;

struct Spm {
    sp::SentencePieceProcessor processor;
};

namespace {

/* Above FATAL, which is 3: the library's own stderr stays silent. */
void silence() { sp::logging::SetMinLogLevel(5); }

/* Runs body() and turns what it throws into a Status. */
template <class Body> Status guarded(const char *doing, Body body) noexcept {
    try {
        silence();
        return body();
    } catch (const std::bad_alloc &) {
        return FAIL(TANE_ENOMEM, "out of memory while %s", doing);
    } catch (const std::exception &e) {
        return FAIL(TANE_EFORMAT, "SentencePiece failed while %s: %s", doing, e.what());
    } catch (...) {
        return FAIL(TANE_EINTERNAL, "SentencePiece threw an unknown exception while %s", doing);
    }
}

/* The library puts "(file.cc)(120) [condition] " in front of what it says. */
const char *plain(const sp::util::Status &status) {
    const char *text = status.message();
    const char *end = strstr(text, "] ");
    return end && end[2] ? end + 2 : text;
}

class Sentences : public sp::SentenceIterator {
  public:
    Sentences(SpmNext next, void *ctx) : next_(next), ctx_(ctx) { Next(); }
    bool done() const override { return done_; }
    void Next() override {
        const char *text;
        size_t n;
        done_ = !next_(ctx_, &text, &n);
        if (!done_) value_.assign(text, n);
    }
    const std::string &value() const override { return value_; }
    sp::util::Status status() const override { return sp::util::Status(); }

  private:
    SpmNext next_;
    void *ctx_;
    bool done_ = false;
    std::string value_;
};

const char *boolean(bool b) { return b ? "true" : "false"; }

std::unordered_map<std::string, std::string> train_arguments(const SpmTrainSpec &spec) {
    const TokenizerTrainOptions &o = *spec.options;
    char coverage[32];
    snprintf(coverage, sizeof coverage, "%.9g", o.character_coverage);
    std::unordered_map<std::string, std::string> args = {
        {"model_type", o.model_type},
        {"vocab_size", std::to_string(spec.vocab_size)},
        {"character_coverage", coverage},
        {"byte_fallback", boolean(o.byte_fallback)},
        {"split_digits", boolean(o.split_digits)},
        {"add_dummy_prefix", boolean(o.add_dummy_prefix)},
        {"normalization_rule_name", "identity"},
        {"remove_extra_whitespaces", "false"},
        {"unk_id", "0"},
        {"bos_id", "1"},
        {"eos_id", "2"},
        {"pad_id", "3"},
        /* The number of partial sums decides how they round, so it is fixed; CPUs are limited by affinity instead. */
        {"num_threads", "16"},
        {"max_sentence_length", std::to_string(spec.longest)},
        {"train_extremely_large_corpus", boolean(spec.large)},
    };
    if (spec.tab) args["user_defined_symbols"] = "\t";
    return args;
}

/* What SentencePiece says about the vocabulary's size, in tane's words; anything else as it is. */
Status train_failure(const SpmTrainSpec &spec, const sp::util::Status &status) {
    const char *text = plain(status);
    long long asked, limit;
    const char *high = strstr(text, "Vocabulary size too high");
    if (high && sscanf(high, "Vocabulary size too high (%lld). Please set it to a value <= %lld", &asked, &limit) == 2)
        return FAIL(TANE_EINVAL,
                    "vocab_size %lld is too large for this data: it yields at most %lld pieces; "
                    "use vocab_size=%lld or less, or give more data",
                    asked, limit, limit);
    const char *low = strstr(text, "Vocabulary size is smaller than required_chars");
    if (low && sscanf(low, "Vocabulary size is smaller than required_chars. %lld vs %lld", &asked, &limit) == 2)
        return FAIL(TANE_EINVAL,
                    "vocab_size %lld is too small for this data: its characters and the special pieces already need "
                    "%lld; use vocab_size=%lld or more, or a lower character_coverage (now %g)",
                    asked, limit, limit, spec.options->character_coverage);
    return FAIL(TANE_EINVAL, "SentencePiece cannot train on this data: %s", text);
}

} // namespace

extern "C" Status spm_open(Spm **out, const char *model, size_t n) {
    *out = nullptr;
    Spm *spm = nullptr;
    Status st = guarded("reading a SentencePiece model", [&]() -> Status {
        spm = new Spm;
        sp::util::Status status = spm->processor.LoadFromSerializedProto(std::string_view(model, n));
        return status.ok() ? TANE_OK : FAIL(TANE_EFORMAT, "SentencePiece refuses the model: %s", plain(status));
    });
    if (st != TANE_OK) {
        delete spm;
        return st;
    }
    *out = spm;
    return TANE_OK;
}

extern "C" void spm_close(Spm *spm) { delete spm; }

extern "C" Status spm_encode(const Spm *spm, const char *text, size_t n, TokenList *out, uint32_t **ends) {
    return guarded("encoding text", [&]() -> Status {
        sp::ImmutableSentencePieceText pieces;
        std::vector<int> ids;
        std::string_view input(text, n);
        sp::util::Status status = ends ? spm->processor.Encode(input, pieces.mutable_proto())
                                       : spm->processor.Encode(input, &ids);
        if (!status.ok()) return FAIL(TANE_EINVAL, "SentencePiece cannot encode the text: %s", plain(status));
        size_t count = ends ? pieces.pieces_size() : ids.size();
        TRY_RETURN(token_list_reserve(out, count));
        if (!ends) {
            for (int id : ids) out->ids[out->n++] = id;
            return TANE_OK;
        }
        TRY_RETURN(MEM_NEW_ARRAY(ends, count));
        for (size_t i = 0; i < count; i++) {
            auto piece = pieces.pieces((int)i);
            out->ids[out->n++] = (int32_t)piece.id();
            (*ends)[i] = piece.end();
        }
        return TANE_OK;
    });
}

extern "C" Status spm_decode(const Spm *spm, const int32_t *ids, size_t n, Str *out) {
    return guarded("decoding tokens", [&]() -> Status {
        std::string text;
        sp::util::Status status = spm->processor.Decode(std::vector<int>(ids, ids + n), &text);
        if (!status.ok()) return FAIL(TANE_EINVAL, "SentencePiece cannot decode the tokens: %s", plain(status));
        return str_add(out, text.data(), text.size());
    });
}

extern "C" Status spm_train(const SpmTrainSpec *spec, SpmNext next, void *ctx, Str *model) {
    return guarded("training a tokenizer", [&]() -> Status {
        Sentences sentences(next, ctx);
        std::string bytes;
        sp::util::Status status = sp::SentencePieceTrainer::Train(train_arguments(*spec), &sentences, &bytes);
        if (!status.ok()) return train_failure(*spec, status);
        return str_add(model, bytes.data(), bytes.size());
    });
}
