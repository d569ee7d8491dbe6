/* The columns of a Parquet file: the footer's flat list of schema elements as a tree that says how a row is written as
 * JSON, and the leaves under it, which are what the file stores.
 *
 * A leaf's values come as triples (repetition level, definition level, value). The definition level says how much of
 * the path to the value is there: it counts the optional and repeated nodes that are. The repetition level says which
 * of the repeated nodes goes on with another element; 0 begins a row.
 */
#ifndef FORMAT_PARQUET_SCHEMA_H
#define FORMAT_PARQUET_SCHEMA_H

#include "base/mem.h"
#include "format/parquet_thrift.h"

/* Elements: what a node, a leaf and a reader's column take each must stay within a fixed amount. */
enum { PQ_MAX_ELEMENTS = 16384, PQ_MAX_DEPTH = 64, PQ_MAX_DIGITS = 154 /* of a decimal: 64 bytes */ };

/* The numbers of the format. */
typedef enum PqType {
    PQ_BOOLEAN,
    PQ_INT32,
    PQ_INT64,
    PQ_INT96,
    PQ_FLOAT,
    PQ_DOUBLE,
    PQ_BYTE_ARRAY,
    PQ_FIXED,
    PQ_TYPES
} PqType;
const char *pq_type_name(PqType type); /* "INT32" */

/* What a leaf's value means. */
typedef enum PqKind {
    PQ_KIND_BOOL,
    PQ_KIND_INT,
    PQ_KIND_UINT,
    PQ_KIND_FLOAT,
    PQ_KIND_DOUBLE,
    PQ_KIND_HALF,
    PQ_KIND_TEXT,
    PQ_KIND_BINARY, /* nothing says that it is text */
    PQ_KIND_DECIMAL,
    PQ_KIND_DATE,      /* days since 1970-01-01 */
    PQ_KIND_TIME,      /* of a day, 10^-digits s */
    PQ_KIND_TIMESTAMP, /* 10^-digits s since 1970-01-01 */
    PQ_KIND_INT96,     /* nanoseconds of a day, Julian day */
    PQ_KIND_UUID,
    PQ_KIND_NULL,
    PQ_KINDS
} PqKind;

typedef enum PqShape { PQ_LEAF, PQ_STRUCT, PQ_LIST, PQ_MAP } PqShape;

typedef struct PqNode PqNode;
struct PqNode {
    const char *name; /* (name_n) in the file, UTF-8 */
    size_t name_n;
    const PqNode *parent;
    PqNode *children; /* (n_children) STRUCT: members; LIST: the element; MAP: key and value, or only the key */
    uint32_t n_children;
    uint32_t first_leaf, n_leaves; /* below it */
    PqShape shape;
    bool optional;
    /* The definition level that the parent alone gives, and the one with which the node is there. An element of a LIST
     * or MAP has def + 1 at least, and another one repeats at level rep. */
    uint8_t min_def, def, rep;
};

typedef struct PqLeaf {
    const PqNode *node;
    PqType type;
    PqKind kind;
    uint32_t width; /* bytes of a value; 0: each says its length; BOOLEAN is 1 bit */
    uint8_t max_def, max_rep;
    uint8_t digits; /* TIME, TIMESTAMP: 3, 6 or 9 */
    uint8_t scale;  /* DECIMAL: digits behind the point */
    bool utc;       /* TIMESTAMP */
} PqLeaf;

typedef struct PqSchema {
    PqNode root; /* a STRUCT */
    PqLeaf *leaves;
    uint32_t n_leaves;
} PqSchema;

/* Reads the footer's list of elements, whose header is next, into `arena`. */
Status pq_schema_read(PqSchema *schema, Arena *arena, Thrift *t, ThriftType type);
/* "messages[].content", cut where it is too long. */
const char *pq_leaf_name(const PqLeaf *leaf, char *out, size_t size);
const char *pq_node_type(const PqSchema *schema, const PqNode *node); /* "list", "text", "int", ... */

#endif
