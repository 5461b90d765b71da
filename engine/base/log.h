/*
 * log: one structured line an event, on standard error.
 *
 * A line is "2026-11-22T16:43:59.123Z level component pid message", the
 * message itself key=value where it carries figures.  Lines are written with
 * one write(2), so that processes of one engine can share the descriptor.
 */

#ifndef MOE_LOG_H
#define MOE_LOG_H


typedef enum {
    MOE_LOG_ERROR,
    MOE_LOG_WARN,
    MOE_LOG_NOTICE,
    MOE_LOG_INFO,
    MOE_LOG_DEBUG
} moe_log_level_e;


/* component: a short static string ("front", "rank 0"); level: the least
 * severe that is written.  Both are process-wide. */
void moe_log_init(const char *component, moe_log_level_e level);

void moe_log(moe_log_level_e level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));


#endif /* MOE_LOG_H */
