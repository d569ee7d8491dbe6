/* What tane's own programs may see behind the public API. */
#ifndef TANE_INTERNAL_H
#define TANE_INTERNAL_H

#include "base/option.h"
#include "tane.h"

/* The run's options, for command lines and help. The run's own. */
OptionSet *tane_run_options(tane_run *run);

#endif
