/* Behind option_fields.h or option_rows.h and their .def file. */
#undef ANY
#undef FIELD
#undef BOOL
#undef INT
#undef NUMBER
#undef TEXT
#undef CHOICE
#undef LIST
