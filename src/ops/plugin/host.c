/* The program's base functions as the plug-in's code calls them: each goes back through the PluginHost. */
#include "ops/plugin/host.h"

#include <stdio.h>

#include "base/mem.h"
#include "ops/node.h"

static const PluginHost *host;

bool cuda_host_set(const PluginHost *h) {
    if (h->abi != PLUGIN_ABI || h->node_size != sizeof(Node) || h->tensor_size != sizeof(Tensor) || h->ops != OP_COUNT)
        return false;
    host = h;
    return true;
}

Status err_set(Status code, const char *source_file, int source_line, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    Status st = host->err_vset(code, source_file, source_line, fmt, args);
    va_end(args);
    return st;
}

Status err_context(const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return host->err_context(text);
}

const char *err_message(void) { return host->err_message(); }
Status mem_new(void **out, size_t n, size_t size) { return host->mem_new(out, n, size); }
void mem_free(void *ptr) { host->mem_free(ptr); }
Status node_save(Node *node, DType dtype, int rank, const int64_t *shape) {
    return host->node_save(node, dtype, rank, shape);
}
const char *op_name(OpId op) { return host->op_name((int)op); }
