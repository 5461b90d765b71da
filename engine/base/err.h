/*
 * err: one line that says what went wrong and where.
 *
 * A function that can fail takes a moe_err_t that its caller owns, writes the
 * line into it and returns -1 (or NULL).  Nothing in the engine exits on an
 * error but main.c.  The line names the file, tensor, offset or key at fault
 * and stands without a final period or newline, as nginx's log lines do.
 */

#ifndef MOE_ERR_H
#define MOE_ERR_H


typedef struct {
    char  text[512];
} moe_err_t;


/*
 * Writes the formatted line, cut to the buffer, and returns -1, so that a
 * failing path reads "return moe_err(err, ...);".  err may be NULL.
 */
int moe_err(moe_err_t *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts a formatted "context: " before the line that is already there. */
int moe_err_prefix(moe_err_t *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));


#endif /* MOE_ERR_H */
