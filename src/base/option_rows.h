/* A .def file of options as rows of an OptionTable over the struct OPTION_STRUCT; option_end.h goes behind it. */
#define ANY                                      INFINITY
#ifdef OPTION_MEMBER /* the fields stand in this member of the struct */
#define FIELD(name) offsetof(OPTION_STRUCT, OPTION_MEMBER.name)
#else
#define FIELD(name) offsetof(OPTION_STRUCT, name)
#endif
#define BOOL(name, fallback, group, help)        {#name, OPTION_BOOL, FIELD(name), #fallback, NULL, 0, 0, group, help},
#define INT(name, fallback, lo, hi, group, help) {#name, OPTION_INT, FIELD(name), #fallback, NULL, lo, hi, group, help},
#define NUMBER(name, fallback, lo, hi, group, help)                                                                    \
    {#name, OPTION_FLOAT, FIELD(name), #fallback, NULL, lo, hi, group, help},
#define TEXT(name, fallback, group, help) {#name, OPTION_STRING, FIELD(name), fallback, NULL, 0, 0, group, help},
#define CHOICE(name, fallback, choices, group, help)                                                                   \
    {#name, OPTION_CHOICE, FIELD(name), fallback, choices, 0, 0, group, help},
#define LIST(name, fallback, group, help) {#name, OPTION_LIST, FIELD(name), fallback, NULL, 0, 0, group, help},
