/* What to measure on a file, told by its first row. */
#ifndef EVAL_METRIC_H
#define EVAL_METRIC_H

#include "base/status.h"

typedef enum Metric { METRIC_EXACT_MATCH, METRIC_GSM8K, METRIC_PERPLEXITY, METRICS } Metric;
const char *metric_name(Metric metric); /* "exact_match", "gsm8k", "perplexity" */

/* Texts: perplexity; answers with a number behind "#### ": gsm8k; else exact match. format, columns and separator as in
 * row_format.h and rows.h. */
Status metric_of_file(Metric *out, const char *path, const char *format, const char *columns, const char *separator);

#endif
