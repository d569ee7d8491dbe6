/* Formatting as Python has it: "%-5s" % x, "{:>8.2f}".format(x), and the texts that int() and float() read. */
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_builtins.h"
#include "text/jinja_text.h"

/* ---- reading numbers -------------------------------------------------------------------------------------------- */

/* The text without white space around it and single underscores between digits, NUL-terminated; false when it does not
 * fit or has an underscore elsewhere. */
static bool plain_digits(const JStr *s, char *out, size_t size) {
    size_t from = text_space_before(s->data, s->n), to = s->n - text_space_behind(s->data + from, s->n - from), n = 0;
    for (size_t i = from; i < to; i++) {
        char c = s->data[i];
        bool between = i > from && i + 1 < to && isalnum((unsigned char)s->data[i - 1]) &&
                       isalnum((unsigned char)s->data[i + 1]);
        if (c == '_' && between) continue;
        if (c == '_' || c == 0 || (unsigned char)c >= 0x80 || isspace((unsigned char)c) || n + 1 >= size) return false;
        out[n++] = c;
    }
    out[n] = 0;
    return n > 0;
}

bool j_parse_int(const JStr *s, int base, int64_t *out) {
    char digits[128], *p = digits, *end;
    if (!plain_digits(s, digits, sizeof digits)) return false;
    bool negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    int prefix = p[0] == '0' ? tolower((unsigned char)p[1]) : 0;
    int named = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
    if (named && (base == 0 || base == named)) {
        p += 2;
        base = named;
    } else if (base == 0) {
        if (p[0] == '0' && strspn(p, "0") != strlen(p)) return false; /* 007 is no number in Python */
        base = 10;
    }
    if (!isalnum((unsigned char)*p)) return false;
    errno = 0;
    unsigned long long value = strtoull(p, &end, base);
    if (*end || errno || value > (uint64_t)INT64_MAX + negative) return false;
    *out = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

/* nan, inf and infinity, which strtod knows too, but also others that Python does not. */
static bool special_float(const char *p, double *out) {
    bool negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    bool is_nan = !strcasecmp(p, "nan");
    if (!is_nan && strcasecmp(p, "inf") && strcasecmp(p, "infinity")) return false;
    *out = is_nan ? (double)NAN : negative ? -(double)INFINITY : (double)INFINITY;
    return true;
}

bool j_parse_float(const JStr *s, double *out) {
    char digits[512], *end;
    if (!plain_digits(s, digits, sizeof digits)) return false;
    if (special_float(digits, out)) return true;
    if (strspn(digits, "0123456789+-.eE") != strlen(digits)) return false;
    char *dot = strchr(digits, '.');
    if (dot) *dot = *localeconv()->decimal_point; /* what strtod wants to see */
    *out = strtod(digits, &end);
    return *end == 0 && end != digits;
}

/* ---- one value -------------------------------------------------------------------------------------------------- */

typedef struct Spec {
    JStr fill;              /* n 0: a space */
    char align, sign, type; /* 0: not given */
    bool alternate, zero, comma;
    int64_t width, precision; /* precision -1: not given */
} Spec;

enum { MOST_WIDTH = 1 << 20, MOST_DIGITS = 300 };

static Status add_padded(JRun *r, JBuilder *out, const Spec *spec, const JStr *text, char usual_align) {
    static const JStr space = {.data = " ", .n = 1};
    int64_t n = (int64_t)text_length(text), extra = spec->width > n ? spec->width - n : 0;
    char align = spec->align ? spec->align : usual_align;
    int64_t left = align == '>' ? extra : align == '^' ? extra / 2 : 0;
    const JStr *fill = spec->fill.n ? &spec->fill : &space;
    for (int64_t i = 0; i < left; i++) TRY_RETURN(jb_add_str(r, out, fill));
    TRY_RETURN(jb_add_str(r, out, text));
    for (int64_t i = left; i < extra; i++) TRY_RETURN(jb_add_str(r, out, fill));
    return TANE_OK;
}

/* sign (with a prefix such as 0x), then digits; zeros and commas go between. */
static Status add_number(JRun *r, JBuilder *out, const Spec *spec, const char *sign, const char *digits) {
    JBuilder text = {0};
    JVal whole;
    size_t n = strlen(digits), n_int = strspn(digits, "0123456789abcdefABCDEF");
    if (strpbrk(digits, ".eE")) n_int = strspn(digits, "0123456789");
    size_t commas = spec->comma && n_int ? (n_int - 1) / 3 : 0;
    bool zero = (spec->zero && !spec->align) || (spec->align == '=' && spec->fill.n == 1 && *spec->fill.data == '0');
    int64_t pad = zero ? spec->width - (int64_t)(strlen(sign) + n + commas) : 0;
    if (zero && spec->comma)
        return j_fail(r, TANE_EUNSUPPORTED, "zeros in front together with ',' in a format are not supported");
    if (spec->align == '=' && !zero)
        return j_fail(r, TANE_EUNSUPPORTED, "the alignment '=' in a format is supported with zeros only");
    TRY_RETURN(jb_add(r, &text, sign, strlen(sign), 0));
    for (int64_t i = 0; i < pad; i++) TRY_RETURN(jb_add(r, &text, "0", 1, 0));
    for (size_t i = 0; i < n; i++) {
        if (spec->comma && i && i < n_int && (n_int - i) % 3 == 0) TRY_RETURN(jb_add(r, &text, ",", 1, 0));
        TRY_RETURN(jb_add(r, &text, digits + i, 1, 0));
    }
    TRY_RETURN(jb_finish(r, &text, &whole));
    return add_padded(r, out, spec, whole.str, '>');
}

static const char *sign_text(const Spec *spec, bool negative) {
    return negative ? "-" : spec->sign == '+' ? "+" : spec->sign == ' ' ? " " : "";
}

static Status add_integer(JRun *r, JBuilder *out, const Spec *spec, int64_t value) {
    char digits[72], sign[8];
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    char type = spec->type ? spec->type : 'd';
    unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
    size_t n = sizeof digits;
    digits[--n] = 0;
    do digits[--n] = (type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[magnitude % base];
    while ((magnitude /= base) != 0);
    snprintf(sign, sizeof sign, "%s", sign_text(spec, value < 0));
    if (spec->alternate && base != 10) snprintf(sign + strlen(sign), 3, "0%c", type);
    /* A precision asks for digits: %.3d */
    JBuilder wide = {0};
    JVal text;
    for (int64_t i = (int64_t)strlen(digits + n); i < spec->precision; i++) TRY_RETURN(jb_add(r, &wide, "0", 1, 0));
    TRY_RETURN(jb_add(r, &wide, digits + n, strlen(digits + n) + 1, 0));
    TRY_RETURN(jb_finish(r, &wide, &text));
    return add_number(r, out, spec, sign, text.str->data);
}

/* Whatever sign the locale has for the decimal point becomes a dot. */
static void set_point(char *digits) {
    char point = *localeconv()->decimal_point, *p = strchr(digits, point);
    if (p) *p = '.';
}

static Status add_real(JRun *r, JBuilder *out, const Spec *spec, double value) {
    char digits[700], format[16];
    bool percent = spec->type == '%', negative = signbit(value) && !isnan(value);
    char type = percent ? 'f' : spec->type ? spec->type : 'g';
    if (spec->precision > MOST_DIGITS) return j_fail(r, TANE_EINVAL, "a precision of more than %d digits", MOST_DIGITS);
    value = fabs(percent ? value * 100 : value);
    if (isnan(value) || isinf(value)) {
        bool upper = type >= 'A' && type <= 'Z';
        snprintf(digits, sizeof digits, "%s", isnan(value) ? upper ? "NAN" : "nan" : upper ? "INF" : "inf");
    } else if (!spec->type && spec->precision < 0) { /* repr() */
        JBuilder text = {0};
        TRY_RETURN(jb_add_float(r, &text, value));
        snprintf(digits, sizeof digits, "%.*s", (int)text.n, text.text);
    } else {
        int64_t precision = spec->precision < 0 ? 6 : spec->precision;
        snprintf(format, sizeof format, spec->alternate ? "%%#.*%c" : "%%.*%c", type);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(digits, sizeof digits - 1, format, (int)precision, value);
#pragma GCC diagnostic pop
        set_point(digits);
        /* A float without a type keeps a digit behind its point. */
        if (!spec->type && !strpbrk(digits, ".e")) strcat(digits, ".0");
    }
    if (percent) strcat(digits, "%");
    return add_number(r, out, spec, sign_text(spec, negative), digits);
}

static Status add_text(JRun *r, JBuilder *out, const Spec *spec, const JStr *s) {
    JVal cut = j_from_str(s);
    if (spec->precision >= 0 && spec->precision < (int64_t)s->n) {
        int64_t n = (int64_t)text_length(s);
        TRY_RETURN(text_slice(r, s, 0, 1, (size_t)(spec->precision < n ? spec->precision : n), &cut));
    }
    return add_padded(r, out, spec, cut.str, '<');
}

/* ---- "..." % x -------------------------------------------------------------------------------------------------- */

typedef struct Percent {
    JRun *r;
    const JStr *format;
    size_t at;
    JVal args;
    size_t next;   /* of a tuple */
    bool one_used; /* args is a single value */
} Percent;

static Status next_argument(Percent *p, JVal *out) {
    if (p->args.type == J_TUPLE ? p->next >= p->args.seq->n : p->one_used)
        return j_fail(p->r, TANE_EINVAL, "not enough arguments for format string");
    *out = p->args.type == J_TUPLE ? p->args.seq->items[p->next++] : p->args;
    p->one_used = true;
    return TANE_OK;
}

static char peek(const Percent *p) { return p->at < p->format->n ? p->format->data[p->at] : 0; }

/* "(name)" */
static Status named_argument(Percent *p, JVal *value, bool *named) {
    *named = peek(p) == '(';
    if (!*named) return TANE_OK;
    size_t from = ++p->at;
    while (peek(p) && peek(p) != ')') p->at++;
    if (!peek(p)) return j_fail(p->r, TANE_EINVAL, "incomplete format key");
    if (p->args.type != J_DICT) return j_fail(p->r, TANE_EINVAL, "format requires a mapping");
    const JVal *found = j_dict_find(p->args.dict, p->format->data + from, p->at - from);
    if (!found)
        return j_fail(p->r, TANE_EINVAL, "the format's key '%.*s' is missing", (int)(p->at - from),
                      p->format->data + from);
    *value = *found;
    p->at++;
    return TANE_OK;
}

/* Digits, or * for the next argument; *out stays when there are none. */
static Status number_or_star(Percent *p, int64_t *out) {
    JVal value;
    if (peek(p) == '*') {
        p->at++;
        TRY_RETURN(next_argument(p, &value));
        if (!j_integer(value, out)) return j_fail(p->r, TANE_EINVAL, "* wants int");
    } else if (isdigit((unsigned char)peek(p))) {
        for (*out = 0; isdigit((unsigned char)peek(p)) && *out <= MOST_WIDTH; p->at++)
            *out = *out * 10 + (peek(p) - '0');
    }
    if (*out > MOST_WIDTH || *out < -MOST_WIDTH)
        return j_fail(p->r, TANE_EINVAL, "a width of more than %d", MOST_WIDTH);
    return TANE_OK;
}

static Status percent_spec(Percent *p, Spec *spec) {
    bool left = false;
    for (char c; (c = peek(p)) != 0 && strchr("-+ #0", c); p->at++) {
        left = left || c == '-';
        spec->zero = spec->zero || c == '0';
        spec->alternate = spec->alternate || c == '#';
        if (c == '+' || (c == ' ' && !spec->sign)) spec->sign = c;
    }
    TRY_RETURN(number_or_star(p, &spec->width));
    if (spec->width < 0) {
        left = true;
        spec->width = -spec->width;
    }
    if (peek(p) == '.') {
        p->at++;
        spec->precision = 0;
        TRY_RETURN(number_or_star(p, &spec->precision));
    }
    spec->align = left ? '<' : 0;
    while (peek(p) && strchr("hlL", peek(p))) p->at++;
    spec->type = peek(p);
    if (!spec->type) return j_fail(p->r, TANE_EINVAL, "incomplete format");
    p->at++;
    return TANE_OK;
}

static Status percent_text(Percent *p, JBuilder *out, Spec *spec, JVal value) {
    JBuilder text = {0};
    JVal s;
    if (spec->type == 's') TRY_RETURN(jb_add_value(p->r, &text, value));
    else TRY_RETURN(jb_add_repr(p->r, &text, value));
    TRY_RETURN(jb_finish(p->r, &text, &s));
    if (p->format->markup && !(value.type == J_STR && value.str->markup)) TRY_RETURN(text_escape(p->r, s.str, &s));
    if (!spec->align) spec->align = '>';
    return add_text(p->r, out, spec, s.str);
}

static Status percent_char(Percent *p, JBuilder *out, const Spec *spec, JVal value) {
    char bytes[4];
    int64_t code;
    if (j_integer(value, &code)) {
        if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
            return j_fail(p->r, TANE_EINVAL, "%%c arg not in range(0x110000)");
        JStr s = {.data = bytes, .n = text_encode((uint32_t)code, bytes)};
        return add_padded(p->r, out, spec, &s, '>');
    }
    if (value.type != J_STR || text_length(value.str) != 1)
        return j_fail(p->r, TANE_EINVAL, "%%c requires int or char");
    return add_padded(p->r, out, spec, value.str, '>');
}

static Status percent_value(Percent *p, JBuilder *out, Spec *spec, JVal value) {
    double f;
    int64_t i;
    switch (spec->type) {
    case 's':
    case 'r': return percent_text(p, out, spec, value);
    case 'c': return percent_char(p, out, spec, value);
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        if (value.type == J_UNDEFINED) return j_fail_undefined(p->r, value);
        if (value.type == J_FLOAT && strchr("diu", spec->type) && fabs(value.real) < 9e18)
            value = j_int((int64_t)value.real);
        if (!j_integer(value, &i))
            return j_fail(p->r, TANE_EINVAL, "%%%c format: a number is required, not %s", spec->type,
                          j_type_name(value));
        if (strchr("iu", spec->type)) spec->type = 'd';
        return add_integer(p->r, out, spec, i);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (value.type == J_UNDEFINED) return j_fail_undefined(p->r, value);
        if (!j_number(value, &f)) return j_fail(p->r, TANE_EINVAL, "must be real number, not %s", j_type_name(value));
        return add_real(p->r, out, spec, f);
    case 'a': return j_fail(p->r, TANE_EUNSUPPORTED, "%%a in a format is not supported");
    default: return j_fail(p->r, TANE_EINVAL, "unsupported format character '%c'", spec->type);
    }
}

Status j_percent(JRun *r, const JStr *format, JVal args, JVal *out) {
    Percent p = {.r = r, .format = format, .args = args};
    JBuilder text = {0};
    while (p.at < format->n) {
        const char *percent = memchr(format->data + p.at, '%', format->n - p.at);
        size_t end = percent ? (size_t)(percent - format->data) : format->n;
        Spec spec = {.precision = -1};
        JVal value = j_none();
        bool named;
        TRY_RETURN(jb_add_part(r, &text, format, p.at, end));
        p.at = end + 1;
        if (!percent) break;
        TRY_RETURN(named_argument(&p, &value, &named));
        TRY_RETURN(percent_spec(&p, &spec));
        if (spec.type == '%') {
            TRY_RETURN(jb_add(r, &text, "%", 1, j_mark_at(format, end)));
            continue;
        }
        if (named) p.one_used = true;
        else TRY_RETURN(next_argument(&p, &value));
        TRY_RETURN(percent_value(&p, &text, &spec, value));
    }
    bool left = args.type == J_TUPLE ? p.next < args.seq->n
                                     : !p.one_used && args.type != J_DICT && args.type != J_LIST &&
                                           args.type != J_UNDEFINED && args.type != J_RANGE;
    if (left) return j_fail(r, TANE_EINVAL, "not all arguments converted during string formatting");
    TRY_RETURN(jb_finish(r, &text, out));
    ((JStr *)(uintptr_t)out->str)->markup = format->markup;
    return TANE_OK;
}

/* ---- "...".format(x) -------------------------------------------------------------------------------------------- */

typedef struct Fields {
    JRun *r;
    const JCall *call;
    int64_t next;        /* the next {} */
    bool counted, named; /* {} or {0} were there: they do not mix */
} Fields;

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static Status parse_spec(JRun *r, const JStr *s, Spec *spec) {
    size_t at = 0, first = s->n ? text_char(s->data) : 0;
    *spec = (Spec){.precision = -1};
    if (first < s->n && strchr("<>^=", s->data[first])) {
        spec->fill = (JStr){.data = s->data, .n = first, .mark = j_mark_at(s, 0)};
        spec->align = s->data[first];
        at = first + 1;
    } else if (s->n && strchr("<>^=", *s->data)) {
        spec->align = s->data[at++];
    }
    if (at < s->n && strchr("+- ", s->data[at])) spec->sign = s->data[at++];
    if (at < s->n && s->data[at] == '#') spec->alternate = at++ < s->n;
    if (at < s->n && s->data[at] == '0') spec->zero = at++ < s->n;
    for (; at < s->n && isdigit((unsigned char)s->data[at]) && spec->width <= MOST_WIDTH; at++)
        spec->width = spec->width * 10 + (s->data[at] - '0');
    if (at < s->n && s->data[at] == ',') spec->comma = at++ < s->n;
    if (at < s->n && s->data[at] == '.') {
        spec->precision = 0;
        for (at++; at < s->n && isdigit((unsigned char)s->data[at]) && spec->precision <= MOST_WIDTH; at++)
            spec->precision = spec->precision * 10 + (s->data[at] - '0');
    }
    if (at < s->n && (unsigned char)s->data[at] < 0x80) spec->type = s->data[at++];
    if (at != s->n || spec->width > MOST_WIDTH || spec->precision > MOST_WIDTH)
        return j_fail(r, TANE_EINVAL, "invalid format specifier '%.*s'", (int)(s->n < 60 ? s->n : 60), s->data);
    return TANE_OK;
}

static Status add_formatted(JRun *r, JBuilder *out, JVal value, const JStr *spec_text) {
    Spec spec;
    int64_t i;
    double f;
    if (spec_text->n == 0) return jb_add_value(r, out, value);
    TRY_RETURN(parse_spec(r, spec_text, &spec));
    if (value.type == J_STR && (!spec.type || spec.type == 's')) return add_text(r, out, &spec, value.str);
    if (j_integer(value, &i) && (!spec.type || strchr("dbxXo", spec.type))) {
        if (spec.precision >= 0) return j_fail(r, TANE_EINVAL, "Precision not allowed in integer format specifier");
        return add_integer(r, out, &spec, i);
    }
    if (j_number(value, &f) && (!spec.type || strchr("eEfFgG%", spec.type))) return add_real(r, out, &spec, f);
    return j_fail(r, TANE_EINVAL, "the format '%.*s' does not suit '%s'", (int)(spec_text->n < 60 ? spec_text->n : 60),
                  spec_text->data, j_type_name(value));
}

/* The value that a field begins with: "", "0" or "name". */
static Status field_start(Fields *f, const JStr *name, JVal *out) {
    int64_t index;
    bool number = name->n && isdigit((unsigned char)*name->data) && j_parse_int(name, 10, &index);
    if (name->n == 0 || number) {
        f->counted = f->counted || name->n == 0;
        f->named = f->named || number;
        if (f->counted && f->named) return j_fail(f->r, TANE_EINVAL, "{} and {0} cannot be mixed in a format");
        if (!number) index = f->next++;
        if ((size_t)index >= f->call->n_pos)
            return j_fail(f->r, TANE_EINVAL, "Replacement index %lld out of range for positional args tuple",
                          (long long)index);
        *out = f->call->pos[index];
        return TANE_OK;
    }
    for (size_t i = 0; i < f->call->n_named; i++) {
        const JStr *key = f->call->names[i];
        if (key->n != name->n || memcmp(key->data, name->data, key->n)) continue;
        *out = f->call->named[i];
        return TANE_OK;
    }
    return j_fail(f->r, TANE_EINVAL, "the format's key '%.*s' is missing", (int)(name->n < 60 ? name->n : 60),
                  name->data);
}

/* name.attribute[item] */
static Status field_value(Fields *f, const JStr *s, size_t from, size_t to, JVal *out) {
    size_t at = from;
    JVal part;
    while (at < to && s->data[at] != '.' && s->data[at] != '[') at++;
    TRY_RETURN(j_part(f->r, s, from, at, &part));
    TRY_RETURN(field_start(f, part.str, out));
    while (at < to) {
        bool item = s->data[at] == '[';
        size_t begin = at + 1, end = begin;
        while (end < to && (item ? s->data[end] != ']' : s->data[end] != '.' && s->data[end] != '[')) end++;
        if (end == begin || (item && end == to)) return j_fail(f->r, TANE_EINVAL, "Empty attribute in format string");
        TRY_RETURN(j_part(f->r, s, begin, end, &part));
        int64_t index;
        if (item && j_parse_int(part.str, 10, &index) && isdigit((unsigned char)*part.str->data)) part = j_int(index);
        if (item) TRY_RETURN(j_item(f->r, *out, part, out));
        else TRY_RETURN(j_attribute(f->r, *out, part.str, out));
        at = end + item;
    }
    return TANE_OK;
}

static Status format_text(Fields *f, const JStr *s, int depth, JBuilder *out);

/* The field in s[from..to), without its braces. */
static Status format_field(Fields *f, const JStr *s, size_t from, size_t to, int depth, JBuilder *out) {
    size_t name_end = from, spec_from;
    JVal value, text;
    bool in_brackets = false;
    for (; name_end < to; name_end++) {
        char c = s->data[name_end];
        if (c == '[') in_brackets = true;
        else if (c == ']') in_brackets = false;
        else if (!in_brackets && (c == ':' || c == '!')) break;
    }
    TRY_RETURN(field_value(f, s, from, name_end, &value));
    spec_from = name_end;
    if (spec_from < to && s->data[spec_from] == '!') {
        char how = spec_from + 1 < to ? s->data[spec_from + 1] : 0;
        JBuilder converted = {0};
        if (how != 's' && how != 'r')
            return j_fail(f->r, TANE_EUNSUPPORTED, "the conversion '!%c' in a format is not supported",
                          how ? how : ' ');
        TRY_RETURN(how == 'r' ? jb_add_repr(f->r, &converted, value) : jb_add_value(f->r, &converted, value));
        TRY_RETURN(jb_finish(f->r, &converted, &value));
        spec_from += 2;
        if (spec_from < to && s->data[spec_from] != ':')
            return j_fail(f->r, TANE_EINVAL, "expected ':' after conversion specifier");
    }
    JBuilder spec = {0};
    TRY_RETURN(j_part(f->r, s, spec_from < to ? spec_from + 1 : to, to, &text));
    TRY_RETURN(format_text(f, text.str, depth + 1, &spec)); /* a spec may have fields itself */
    TRY_RETURN(jb_finish(f->r, &spec, &text));
    return add_formatted(f->r, out, value, text.str);
}

static Status format_text(Fields *f, const JStr *s, int depth, JBuilder *out) {
    if (depth > 3) return j_fail(f->r, TANE_EINVAL, "Max string recursion exceeded");
    for (size_t at = 0; at < s->n;) {
        size_t end = at;
        while (end < s->n && s->data[end] != '{' && s->data[end] != '}') end++;
        TRY_RETURN(jb_add_part(f->r, out, s, at, end));
        if (end == s->n) return TANE_OK;
        if (end + 1 < s->n && s->data[end + 1] == s->data[end]) {
            TRY_RETURN(jb_add_part(f->r, out, s, end, end + 1));
            at = end + 2;
            continue;
        }
        if (s->data[end] == '}') return j_fail(f->r, TANE_EINVAL, "Single '}' encountered in format string");
        size_t close = end + 1;
        for (int open = 1; close < s->n; close++) {
            open += s->data[close] == '{' ? 1 : s->data[close] == '}' ? -1 : 0;
            if (open == 0) break;
        }
        if (close >= s->n) return j_fail(f->r, TANE_EINVAL, "expected '}' before end of string");
        TRY_RETURN(format_field(f, s, end + 1, close, depth, out));
        at = close + 1;
    }
    return TANE_OK;
}

Status j_str_format(JRun *r, const JStr *format, const JCall *call, JVal *out) {
    Fields f = {.r = r, .call = call};
    JBuilder text = {0};
    if (format->markup)
        return j_fail(r, TANE_EUNSUPPORTED, "format() of a text that went through |safe is not supported");
    TRY_RETURN(format_text(&f, format, 1, &text));
    return jb_finish(r, &text, out);
}
