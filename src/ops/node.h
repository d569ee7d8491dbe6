/* What an op's file needs beside the tape: nodes, the kernel row, recording and planning helpers. */
#ifndef OPS_NODE_H
#define OPS_NODE_H

#include "ops/tape.h"

enum { NODE_IN = 8, NODE_OUT = 2, NODE_SAVED = 3 };

/* How backward treats the gradient of an input. */
typedef enum GradWrite {
    GRAD_NONE, /* not wanted */
    GRAD_SET,  /* overwrite */
    GRAD_ADD,  /* add: another consumer wrote before */
    GRAD_RUN   /* parameter's first writer in a run: TapeRun.accumulate decides */
} GradWrite;

/* How a node's outputs come back where they were not kept. */
typedef enum Recompute {
    AGAIN_NOT,
    AGAIN_FORWARD, /* forward once more: needs the inputs */
    AGAIN_KEPT     /* the kernel's recompute: needs only what backward keeps */
} Recompute;

struct Node {
    OpId op;
    const void *args; /* the op's own parameters */
    Tensor *in[NODE_IN], *out[NODE_OUT], *saved[NODE_SAVED];
    int n_in, n_out, n_saved;
    GradWrite grad_in[NODE_IN];
    uint32_t backward_reads_in, backward_reads_out; /* bit k: backward reads the values of in[k] / out[k] */
    int8_t inplace[NODE_OUT];                       /* k + 1: out may lie in in[k]'s memory; 0: no */
    int8_t inplace_grad[NODE_IN];                   /* j + 1: in's gradient may lie in out[j]'s gradient; 0: no */
    Tensor *sums[NODE_IN];                          /* backward also adds up the columns of in[k]'s gradient into this */
    GradWrite sums_write[NODE_IN];                  /* ... and how: GRAD_RUN or GRAD_ADD */
    bool passes_grad;                               /* inplace_grad hands the value on: the residual's gradient */
    bool live;                                      /* backward runs */
    const void *variant;                            /* the kernel that plan chose */
    size_t scratch_bytes;                           /* one region for forward and backward */
    void *scratch;
    int index;
    bool few_rows;   /* see tape_few_rows */
    int block;        /* see tape_block */
    uint32_t remakes; /* bit j: the kernel's recompute makes out[j]; 0: it has none */
    Recompute again;  /* before its block's backward */
    Node *takes;      /* the node behind, whose forward this one's does too */
    bool taken;       /* by the node in front */
    Tape *tape;
    Device *device;
};

/* One device's implementation of an op. */
struct OpKernel {
    const char *name;
    /* Checks support and picks the variant in one place; declares saved tensors, scratch, reads and in-place chances.
     */
    Status (*plan)(Node *node);
    Status (*forward)(const Node *node, const TapeRun *run);
    Status (*backward)(const Node *node, const TapeRun *run); /* NULL for NODIFF rows */
    /* Makes outputs[node->remakes] again from what backward keeps, and touches nothing else. NULL: forward does. */
    Status (*recompute)(const Node *node, const TapeRun *run);

    /* Work that two neighbours share, so that a pass over memory is saved. The tape finds the neighbours. */
    int8_t bias;      /* k + 1: in[k]'s gradient is the sums of out[0]'s gradient's columns; 0: none is */
    uint32_t sums_in; /* bit k: backward can add up the columns of the gradient it writes for in[k] (Node.sums) */
    /* Can this node's forward also do the forward of `next`, the only reader of out[0]? Asked after plan. */
    bool (*can_take)(const Node *node, const Node *next);
};

/* Recording, for fronts. Each returns NULL once the tape has failed. */
bool tape_ok(const Tape *t);
void *tape_fail(Tape *t, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* TANE_EINVAL; returns NULL */
Tensor *tape_activation(Tape *t, const char *name, DType dtype, int rank, const int64_t *shape);
/* in[k] may be NULL for an optional input. args are copied. */
Node *tape_record(Tape *t, OpId op, const void *args, size_t args_size, Tensor *const *in, int n_in, Tensor *const *out,
                  int n_out);
/* Marks the node whose output is the loss: where backward starts. */
void tape_set_loss(Tape *t, Node *node);
/* Backward (also) starts at y: the returned tensor, y's gradient, is filled by the caller between forward and backward.
 */
Tensor *tape_seed(Tape *t, Tensor *y);

/* Planning, for kernels. */
Status node_save(Node *node, DType dtype, int rank, const int64_t *shape); /* becomes saved[n_saved++] */
static inline bool node_adds(const Node *node, int k, const TapeRun *run) {
    return node->grad_in[k] == GRAD_ADD || (node->grad_in[k] == GRAD_RUN && run->accumulate);
}

/* CPU kernels: src/ops/NAME.c is compiled once per instruction set; the front only in one of them. */
#define CPU_JOIN_(a, b, c) a##b##_##c
#define CPU_JOIN(a, b, c)  CPU_JOIN_(a, b, c)
#define CPU_KERNEL(name)   CPU_JOIN(cpu_, name, ISA)

static inline bool node_sums_add(const Node *node, int k, const TapeRun *run) {
    return node->sums_write[k] == GRAD_ADD || (node->sums_write[k] == GRAD_RUN && run->accumulate);
}

#define DIFF   1
#define NODIFF 0
enum {
#define OP(name, diff) OP_DIFF_##name = diff,
#include "ops/ops.def"
#undef OP
};
#define OP_KERNEL(op, plan_, forward_, backward_) OP_KERNEL_RECOMPUTE(op, plan_, forward_, backward_, NULL)
#define OP_KERNEL_RECOMPUTE(op, plan_, forward_, backward_, recompute_)                                                \
    _Static_assert(OP_DIFF_##op, "ops.def says that " #op " has no gradient");                                         \
    extern const OpKernel CPU_KERNEL(op);                                                                              \
    const OpKernel CPU_KERNEL(op) = {                                                                                  \
        .name = #op, .plan = plan_, .forward = forward_, .backward = backward_, .recompute = recompute_};
#define OP_KERNEL_NODIFF(op, plan_, forward_)                                                                          \
    _Static_assert(!OP_DIFF_##op, "ops.def says that " #op " has a gradient");                                         \
    extern const OpKernel CPU_KERNEL(op);                                                                              \
    const OpKernel CPU_KERNEL(op) = {.name = #op, .plan = plan_, .forward = forward_};

#endif
