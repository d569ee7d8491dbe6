/* The filters over sequences (text/jinja_sequences.c), for the table in text/jinja_filters.c. */
#ifndef TEXT_JINJA_FILTERS_H
#define TEXT_JINJA_FILTERS_H

#include "text/jinja_builtins.h"

#define FILTER(name) Status name(JRun *r, JVal self, const JCall *call, JVal *out)

FILTER(filter_first);
FILTER(filter_last);
FILTER(filter_list);
FILTER(filter_items);
FILTER(filter_dictsort);
FILTER(filter_sort);
FILTER(filter_reverse);
FILTER(filter_unique);
FILTER(filter_min);
FILTER(filter_max);
FILTER(filter_sum);
FILTER(filter_batch);
FILTER(filter_slice);
FILTER(filter_join);
FILTER(filter_map);
FILTER(filter_select);
FILTER(filter_reject);
FILTER(filter_selectattr);
FILTER(filter_rejectattr);

#endif
