/* A .def file of options as the fields of a struct; option_end.h goes behind it. The rows are described in train/options.def. */
#define BOOL(name, fallback, group, help)           bool name;
#define INT(name, fallback, lo, hi, group, help)    int64_t name;
#define NUMBER(name, fallback, lo, hi, group, help) double name;
#define TEXT(name, fallback, group, help)           const char *name;
#define CHOICE(name, fallback, choices, group, help) const char *name;
#define LIST(name, fallback, group, help)           StringList name;
