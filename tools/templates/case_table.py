#!/usr/bin/env python3
"""Writes engine/text/jinja_case.h to standard output."""


def quote(s):
    return '"' + "".join("\\x%02x" % b for b in s.encode()) + '"'


print("""/*
 * jinja_case: characters whose upper or title case is more than one
 * character, from Unicode's SpecialCasing.  Written by
 * tools/templates/case_table.py.
 */

#ifndef MOE_JINJA_CASE_H
#define MOE_JINJA_CASE_H


static const struct {
    uint32_t     cp;
    const char  *upper;
    const char  *title;
} jcase_table[] = {""")

for cp in range(0x110000):
    if 0xD800 <= cp < 0xE000:
        continue
    upper, title = chr(cp).upper(), chr(cp).title()
    if len(upper) > 1 or len(title) > 1:
        print("    { 0x%04x, %s, %s }," % (cp, quote(upper), quote(title)))

print("""};


#endif /* MOE_JINJA_CASE_H */""")
