/*
 * simt: enough of CUDA's language and runtime to run the simple kernels in
 * kernels/cuda on a processor, thread after thread, so that tests can compare
 * what they compute where there is no GPU.  It shows that the code is right
 * about indices, bounds, barriers and the order of sums, nothing about a
 * GPU's compiler, memory model or speed.
 *
 * A block's threads are coroutines that change at barriers and shuffles.
 * Blocks run one after the other.  Memory that was taken for the device can be
 * touched in kernels and copies alone, and a page behind it never.  Copies see
 * it in a place of its own, so that another thread may make some while the one
 * that computes runs a kernel.  A stream does what it was asked for when
 * somebody waits for it (stream.h); simt_waits says how often the process has.
 */

#ifndef MOE_SIMT_H
#define MOE_SIMT_H


#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <new>

extern "C" {
#include "t/cuda/stream.h"
}


#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __shared__  static

#define MOE_SHARED(type, name)                                                \
    type  *name = reinterpret_cast<type *>(simt.shared)


enum {
    SIMT_THREADS = 1024,
    SIMT_STACK = 128 << 10,     /* bytes a thread */
    SIMT_TAKEN = 512,
    SIMT_PINNED = 16,
    SIMT_MEMORY = 1 << 30       /* most bytes at once */
};

typedef enum {
    SIMT_RUNS,
    SIMT_AT_SHUFFLE,
    SIMT_AT_BARRIER,
    SIMT_DONE
} simt_state_e;

typedef struct {
    jmp_buf        at;
    simt_state_e   state;
    int            started;
    int            turn;        /* which of the two slots shuffles use next */
} simt_thread_t;

typedef struct {
    void    *map;
    void    *copies;            /* the same memory, for them */
    char    *p;
    size_t   bytes;             /* of a mapping, without the last page */
} simt_taken_t;

typedef struct {
    char    *p;                 /* NULL: free */
    size_t   bytes;
} simt_pinned_t;

typedef struct {
    void          (*body)(void *ctx);
    void           *ctx;
    jmp_buf         scheduler;
    ucontext_t      first;
    unsigned        current;
    unsigned        nthreads;
    simt_thread_t   threads[SIMT_THREADS];
    uint64_t        slots[2][SIMT_THREADS];     /* what shuffles exchange */
    char           *stacks;
    unsigned char   shared[228 << 10] __attribute__((aligned(256)));
    simt_taken_t    taken[SIMT_TAKEN];
    unsigned        ntaken;
    simt_pinned_t   pinned[SIMT_PINNED];
} simt_t;

/* one for the whole program, which computes in one thread */
inline simt_t  simt;

struct simt_dim_t { unsigned  x; };

inline simt_dim_t  threadIdx;
inline simt_dim_t  blockIdx;


/* a test's to look at: waits of the process for what a stream has to do */
extern "C" { inline unsigned  simt_waits; }

/* the same: recordings that were played */
extern "C" { inline unsigned  simt_played; }


[[noreturn]] inline void
simt_wrong(const char *what)
{
    fprintf(stderr, "simt: block %u, thread %u: %s\n", blockIdx.x,
            threadIdx.x, what);
    abort();
}


inline void
simt_thread(void)
{
    for ( ;; ) {
        simt.body(simt.ctx);
        simt.threads[simt.current].state = SIMT_DONE;

        if (_setjmp(simt.threads[simt.current].at) == 0) {
            _longjmp(simt.scheduler, 1);
        }
    }
}


inline void
simt_wait(simt_state_e state)
{
    simt_thread_t  *t;

    t = &simt.threads[simt.current];
    t->state = state;

    if (_setjmp(t->at) == 0) {
        _longjmp(simt.scheduler, 1);
    }
}


/* runs a thread until it waits or is done; not inlined, since registers are
 * lost at setjmp */
__attribute__((noinline)) inline void
simt_resume(unsigned i)
{
    simt_thread_t  *t;
    ucontext_t      begin;

    t = &simt.threads[i];
    simt.current = i;
    threadIdx.x = i;

    if (_setjmp(simt.scheduler) != 0) {
        return;
    }

    if (t->started) {
        _longjmp(t->at, 1);
    }

    t->started = 1;
    getcontext(&begin);
    begin.uc_stack.ss_sp = simt.stacks + (size_t) i * SIMT_STACK;
    begin.uc_stack.ss_size = SIMT_STACK;
    begin.uc_link = NULL;
    makecontext(&begin, simt_thread, 0);
    setcontext(&begin);
}


/* lets go who waits for a group of threads that are all there; 0: nobody */
inline int
simt_release(unsigned from, unsigned to, simt_state_e state)
{
    unsigned  i, there, done;

    there = 0;
    done = 0;

    for (i = from; i < to; i++) {
        there += simt.threads[i].state == state;
        done += simt.threads[i].state == SIMT_DONE;
    }

    if (there == 0 || there + done != to - from) {
        return 0;
    }

    if (done != 0 && state == SIMT_AT_SHUFFLE) {
        simt_wrong("a shuffle with threads that have ended");
    }

    for (i = from; i < to; i++) {
        if (simt.threads[i].state == state) {
            simt.threads[i].state = SIMT_RUNS;
        }
    }

    return 1;
}


inline void
simt_block(void)
{
    int       moved, done;
    unsigned  i, end;

    for (i = 0; i < simt.nthreads; i++) {
        simt.threads[i].state = SIMT_RUNS;
        simt.threads[i].turn = 0;
    }

    do {
        done = 1;

        for (i = 0; i < simt.nthreads; i++) {
            if (simt.threads[i].state == SIMT_RUNS) {
                simt_resume(i);
            }
            done &= simt.threads[i].state == SIMT_DONE;
        }

        moved = 0;

        for (i = 0; i < simt.nthreads; i += 32) {
            end = i + 32 < simt.nthreads ? i + 32 : simt.nthreads;
            moved |= simt_release(i, end, SIMT_AT_SHUFFLE);
        }

        if (!moved) {
            moved = simt_release(0, simt.nthreads, SIMT_AT_BARRIER);
        }

        if (!done && !moved) {
            simt_wrong("threads wait for each other");
        }

    } while (!done);
}


inline void
simt_protect(int prot)
{
    unsigned  i;

    for (i = 0; i < simt.ntaken; i++) {
        if (mprotect(simt.taken[i].map, simt.taken[i].bytes, prot) != 0) {
            simt_wrong("mprotect");
        }
    }
}


template <typename F>
inline void
simt_grid(size_t blocks, unsigned threads, size_t shared, F &f)
{
    size_t  i;

    if (simt.stacks == NULL) {
        simt.stacks = (char *) mmap(NULL, (size_t) SIMT_THREADS * SIMT_STACK,
                                    PROT_READ|PROT_WRITE,
                                    MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE,
                                    -1, 0);
    }

    simt.body = [](void *ctx) { (*(F *) ctx)(); };
    simt.ctx = &f;
    simt.nthreads = threads;

    simt_protect(PROT_READ|PROT_WRITE);

    for (i = 0; i < blocks; i++) {
        /* what a block finds in shared memory is anything */
        memset(simt.shared, 0xff, shared);
        blockIdx.x = (unsigned) i;
        simt_block();
    }

    simt_protect(PROT_NONE);
}


/* streams */

typedef simt_stream_t  *cudaStream_t;

typedef struct simt_event_s {
    unsigned       asked;       /* how often it was recorded */
    unsigned       done;
    cudaStream_t   stream;      /* the last time */
    uint64_t       ns;
} *cudaEvent_t;

typedef enum {
    SIMT_WORK,
    SIMT_MESSAGE,               /* or a record of an event */
    SIMT_WAIT                   /* for another stream's */
} simt_op_e;

struct simt_op_s {
    simt_op_t  *next;
    simt_op_e   kind;
    void      (*run)(simt_op_t *op, int free_it);
};

template <typename F>
struct simt_task_t {
    simt_op_t  op;
    F          f;
};


template <typename F>
inline void
simt_add(cudaStream_t s, simt_op_e kind, F f)
{
    simt_task_t<F>  *t;

    t = (simt_task_t<F> *) malloc(sizeof(*t));
    new (&t->f) F(f);

    t->op.next = NULL;
    t->op.kind = kind;
    t->op.run = [](simt_op_t *op, int free_it) {
        simt_task_t<F>  *mine = (simt_task_t<F> *) op;

        if (free_it) {
            free(op);
        } else {
            mine->f();
        }
    };

    *s->last = &t->op;
    s->last = &t->op.next;
    s->pending |= kind == SIMT_WORK;
}


/* one after the other, while more() says so */
template <typename F>
inline void
simt_run(cudaStream_t s, F more)
{
    simt_op_t  *op;

    if (s->first != NULL && s->runs) {
        simt_wrong("streams wait for each other");
    }

    s->runs = 1;

    while (s->first != NULL && more()) {
        op = s->first;
        op->run(op, 0);
        s->first = op->next;
        s->last = s->first ? s->last : &s->first;
        op->run(op, 1);
    }

    s->runs = 0;
}


inline void
simt_waited(cudaStream_t s)
{
    if (s->pending) {
        s->pending = 0;
        __atomic_add_fetch(&simt_waits, 1, __ATOMIC_RELAXED);
    }
}


inline void
simt_finish(cudaStream_t s)
{
    simt_run(s, [] { return 1; });
}


inline void
simt_reach(cudaStream_t s)
{
    simt_op_t  *op, *work;

    work = NULL;

    for (op = s->first; op != NULL; op = op->next) {
        work = op->kind == SIMT_WORK ? op : work;
    }

    simt_run(s, [&] {
        if (work == NULL) {
            return 0;
        }

        work = s->first == work ? NULL : work;

        return 1;
    });

    for (op = s->first; op != NULL; op = op->next) {
        if (op->kind == SIMT_WAIT) {
            op->run(op, 0);
        }
    }
}


/* for what cannot be part of a recording here */
inline void
simt_not_recorded(cudaStream_t s)
{
    if (s->recorded) {
        simt_wrong("what is not a launch, while launches are recorded");
    }
}


template <typename F>
inline void
simt_launch(cudaStream_t s, size_t blocks, unsigned threads, size_t shared,
    F f)
{
    if (threads > SIMT_THREADS || shared > sizeof(simt.shared)
        || blocks > INT32_MAX)
    {
        simt_wrong("no device can launch this");
    }

    simt_add(s, SIMT_WORK, [=] {
        F  kernel = f;

        simt_grid(blocks, threads, shared, kernel);
    });
}


inline void
__syncthreads(void)
{
    simt_wait(SIMT_AT_BARRIER);
}


/* slots in turn, so that nobody overwrites what another has yet to read */
template <typename T>
inline T
__shfl_xor_sync(unsigned mask, T v, int x)
{
    T         r;
    unsigned  i, turn;

    i = simt.current;
    turn = (unsigned) simt.threads[i].turn;
    simt.threads[i].turn = !turn;

    memcpy(&simt.slots[turn][i], &v, sizeof(T));
    simt_wait(SIMT_AT_SHUFFLE);
    memcpy(&r, &simt.slots[turn][i ^ (unsigned) x], sizeof(T));

    return r;
}


template <typename T>
inline T
atomicAdd(T *p, T v)
{
    T  was;

    was = *p;
    *p = was + v;

    return was;
}


inline int
__dp4a(int a, int b, int c)
{
    int  i;

    for (i = 0; i < 32; i += 8) {
        c += (int8_t) ((unsigned) a >> i) * (int8_t) ((unsigned) b >> i);
    }

    return c;
}


/* the runtime */

typedef enum {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorNotReady
} cudaError_t;

typedef enum {
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDeviceToHost
} simt_copy_e;

typedef enum { cudaStreamCaptureModeThreadLocal } simt_capture_e;

/* one and the same here */
typedef struct simt_graph_s { simt_op_t  *first; }  *cudaGraph_t;
typedef cudaGraph_t  cudaGraphExec_t;

enum {
    cudaStreamNonBlocking,
    cudaHostAllocDefault,
    cudaEventDefault,
    cudaEventDisableTiming
};


inline const char *
cudaGetErrorString(cudaError_t rc)
{
    return rc == cudaSuccess ? "no error" : "out of memory";
}


inline cudaError_t
cudaGetLastError(void)
{
    return cudaSuccess;
}


inline cudaError_t
cudaGetDeviceCount(int *n)
{
    *n = 1;

    return cudaSuccess;
}


inline cudaError_t
cudaSetDevice(int n)
{
    return cudaSuccess;
}


inline cudaError_t
cudaStreamCreateWithFlags(cudaStream_t *to, unsigned flags)
{
    cudaStream_t  s;

    s = (cudaStream_t) calloc(1, sizeof(*s));
    s->last = &s->first;
    s->reach = simt_reach;
    s->bring = [](cudaStream_t mine, void (*run)(void *ctx), void *ctx) {
        simt_add(mine, SIMT_MESSAGE, [=] { run(ctx); });
    };
    *to = s;

    return cudaSuccess;
}


inline cudaError_t
cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;

    return cudaSuccess;
}


inline cudaError_t
cudaStreamCreateWithPriority(cudaStream_t *to, unsigned flags, int priority)
{
    return cudaStreamCreateWithFlags(to, flags);
}


inline cudaError_t
cudaStreamDestroy(cudaStream_t s)
{
    simt_finish(s);
    free(s);

    return cudaSuccess;
}


inline cudaError_t
cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    *e = (cudaEvent_t) calloc(1, sizeof(**e));

    return cudaSuccess;
}


inline cudaError_t
cudaEventDestroy(cudaEvent_t e)
{
    free(e);

    return cudaSuccess;
}


inline cudaError_t
cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    unsigned  n;

    n = ++e->asked;
    e->stream = s;

    simt_add(s, SIMT_MESSAGE, [=] {
        struct timespec  ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        e->ns = (uint64_t) ts.tv_sec * 1000000000 + (uint64_t) ts.tv_nsec;
        e->done = n;
    });

    return cudaSuccess;
}


inline cudaError_t
cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    unsigned      n;
    cudaStream_t  other;

    n = e->asked;
    other = e->stream;

    if (n != 0) {
        simt_add(s, SIMT_WAIT, [=] {
            if (e->done < n) {
                simt_run(other, [=] { return e->done < n; });
            }
        });
    }

    return cudaSuccess;
}


inline cudaError_t
cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    if (from->asked == 0 || from->done != from->asked || to->asked == 0
        || to->done != to->asked)
    {
        return cudaErrorNotReady;
    }

    *ms = (float) ((double) (to->ns - from->ns) / 1e6);

    return cudaSuccess;
}


/* a test may say that something is not done for so many looks */
extern "C" { inline unsigned  simt_busy; }


inline cudaError_t
cudaStreamQuery(cudaStream_t s)
{
    simt_not_recorded(s);

    if (simt_busy == 0) {
        simt_finish(s);
        return cudaSuccess;
    }

    simt_busy--;

    return cudaErrorNotReady;
}


inline cudaError_t
cudaStreamSynchronize(cudaStream_t s)
{
    simt_not_recorded(s);
    simt_waited(s);
    simt_finish(s);

    return cudaSuccess;
}


inline cudaError_t
cudaStreamBeginCapture(cudaStream_t s, simt_capture_e mode)
{
    simt_not_recorded(s);
    simt_finish(s);
    s->recorded = 1;

    return cudaSuccess;
}


inline cudaError_t
cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    *graph = (cudaGraph_t) malloc(sizeof(**graph));
    (*graph)->first = s->first;
    s->first = NULL;
    s->last = &s->first;
    s->recorded = 0;

    return cudaSuccess;
}


inline cudaError_t
cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
    unsigned long long flags)
{
    *exec = graph;

    return cudaSuccess;
}


/* given back with what was made of it */
inline cudaError_t
cudaGraphDestroy(cudaGraph_t graph)
{
    return cudaSuccess;
}


inline cudaError_t
cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t s)
{
    return cudaSuccess;
}


inline cudaError_t
cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    simt_not_recorded(s);
    simt_played++;

    simt_add(s, SIMT_WORK, [=] {
        simt_op_t  *op;

        for (op = exec->first; op != NULL; op = op->next) {
            op->run(op, 0);
        }
    });

    return cudaSuccess;
}


inline cudaError_t
cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    simt_op_t  *op;

    while ((op = exec->first) != NULL) {
        exec->first = op->next;
        op->run(op, 1);
    }

    free(exec);

    return cudaSuccess;
}


inline cudaError_t
cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    unsigned  i;

    for (i = 0; i < SIMT_PINNED; i++) {
        if (simt.pinned[i].p == NULL) {
            simt.pinned[i].p = (char *) malloc(bytes);
            simt.pinned[i].bytes = bytes;
            *p = simt.pinned[i].p;
            return *p ? cudaSuccess : cudaErrorMemoryAllocation;
        }
    }

    return cudaErrorMemoryAllocation;
}


inline cudaError_t
cudaFreeHost(void *p)
{
    unsigned  i;

    for (i = 0; i < SIMT_PINNED; i++) {
        if (simt.pinned[i].p == p) {
            free(p);
            simt.pinned[i].p = NULL;
            return cudaSuccess;
        }
    }

    simt_wrong("pinned memory is given back that was not taken");
}


inline int
simt_is_pinned(const void *p)
{
    unsigned  i;

    for (i = 0; i < SIMT_PINNED; i++) {
        if (simt.pinned[i].p != NULL
            && (size_t) ((const char *) p - simt.pinned[i].p)
               < simt.pinned[i].bytes)
        {
            return 1;
        }
    }

    return 0;
}


/* memory, and a page behind it that is never touched */
inline void *
simt_map(int fd, size_t size, int prot)
{
    char  *p;

    p = (char *) mmap(NULL, size + 4096, PROT_NONE,
                      MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

    if (p != MAP_FAILED
        && mmap(p, size, prot, MAP_SHARED|MAP_FIXED|MAP_NORESERVE, fd, 0)
           == MAP_FAILED)
    {
        munmap(p, size + 4096);
        return MAP_FAILED;
    }

    return p;
}


/* to end where the page that is never touched begins */
inline cudaError_t
cudaMalloc(void **p, size_t bytes)
{
    int            fd;
    size_t         size;
    simt_taken_t  *t;

    if (simt.ntaken == SIMT_TAKEN || bytes > SIMT_MEMORY) {
        return cudaErrorMemoryAllocation;
    }

    t = &simt.taken[simt.ntaken];
    bytes = (bytes + 255) / 256 * 256;
    size = (bytes + 4095) / 4096 * 4096;

    fd = memfd_create("simt", MFD_CLOEXEC);

    if (fd == -1 || ftruncate(fd, (off_t) size) != 0) {
        simt_wrong("memfd");
    }

    t->map = simt_map(fd, size, PROT_NONE);
    t->copies = simt_map(fd, size, PROT_READ|PROT_WRITE);
    close(fd);

    if (t->map == MAP_FAILED || t->copies == MAP_FAILED) {
        simt_wrong("mmap");
    }

    t->bytes = size;
    t->p = (char *) t->map + (size - bytes);
    *p = t->p;
    simt.ntaken++;

    return cudaSuccess;
}


inline cudaError_t
cudaFree(void *p)
{
    unsigned       i;
    simt_taken_t  *t;

    for (i = 0; i < simt.ntaken; i++) {
        t = &simt.taken[i];

        if (t->p == p) {
            munmap(t->map, t->bytes + 4096);
            munmap(t->copies, t->bytes + 4096);
            *t = simt.taken[--simt.ntaken];
            return cudaSuccess;
        }
    }

    simt_wrong("memory is given back that was not taken");
}


/* where a copy finds what is at p on the device */
inline char *
simt_copies(const void *p)
{
    size_t         at;
    unsigned       i;
    simt_taken_t  *t;

    for (i = 0; i < simt.ntaken; i++) {
        t = &simt.taken[i];
        at = (size_t) ((const char *) p - (const char *) t->map);

        if ((const char *) p >= (const char *) t->map && at < t->bytes) {
            return (char *) t->copies + at;
        }
    }

    simt_wrong("a copy of memory that was not taken");
}


inline cudaError_t
cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    simt_not_recorded(s);
    simt_add(s, SIMT_WORK, [=] { memset(simt_copies(p), value, bytes); });

    return cudaSuccess;
}


inline void
simt_copy(void *to, const void *from, size_t bytes, simt_copy_e kind)
{
    if (bytes != 0) {
        memmove(kind == cudaMemcpyDeviceToHost ? to : simt_copies(to),
                kind == cudaMemcpyHostToDevice ? from : simt_copies(from),
                bytes);
    }
}


/* with memory of the process that is not pinned it may wait for the stream;
 * pinned memory is read and written when its turn has come */
inline cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t bytes, simt_copy_e kind,
    cudaStream_t s)
{
    simt_not_recorded(s);

    if ((kind == cudaMemcpyHostToDevice && !simt_is_pinned(from))
        || (kind == cudaMemcpyDeviceToHost && !simt_is_pinned(to)))
    {
        simt_waited(s);
        simt_finish(s);
        simt_copy(to, from, bytes, kind);

        return cudaSuccess;
    }

    simt_add(s, SIMT_WORK, [=] { simt_copy(to, from, bytes, kind); });

    return cudaSuccess;
}


#endif /* MOE_SIMT_H */
