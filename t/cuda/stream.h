/*
 * stream: what the emulated runtime (simt.h) lets others do with a stream, for
 * the stub of NCCL (t/nccl/stub.c), which is loaded apart from it.
 *
 * Nothing that was asked of a stream is done before it has to be.  So memory
 * that is read without an event that says when, or written too early, is not
 * what it should be, and a test sees that every time.
 */

#ifndef MOE_SIMT_STREAM_H
#define MOE_SIMT_STREAM_H


typedef struct simt_stream_s  simt_stream_t;
typedef struct simt_op_s      simt_op_t;

struct simt_stream_s {
    /* Memory is as whoever reads it next in this stream may rely on: all that
     * was asked for is done but for what others have sent, where only messages
     * came after it. */
    void (*reach)(simt_stream_t *s);

    /* run(ctx), which brings what others have sent, after all before it */
    void (*bring)(simt_stream_t *s, void (*run)(void *ctx), void *ctx);

    /* the runtime's own */
    simt_op_t   *first;
    simt_op_t  **last;
    int          runs;
    int          pending;           /* what nobody has waited for */
    int          recorded;          /* what is asked for, and not done */
};


#endif /* MOE_SIMT_STREAM_H */
