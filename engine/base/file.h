/*
 * file: a whole small file into memory.
 */

#ifndef MOE_FILE_H
#define MOE_FILE_H


#include <stddef.h>

#include "base/err.h"


/*
 * Reads a regular file of at most max bytes.  The result is malloc'ed, has a
 * zero byte after its len bytes, and is the caller's to free.  Returns NULL
 * and writes err where the file cannot be opened, is not regular, is larger,
 * or cannot be read; where it does not exist and absent is not NULL, *absent
 * is set to 1 and err is untouched.
 */
char *moe_file_read(const char *path, size_t max, size_t *len, int *absent,
    moe_err_t *err);


#endif /* MOE_FILE_H */
