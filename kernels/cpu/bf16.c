#include <math.h>
#include <pthread.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/sets.h"


enum {
    STRIP = 64,                 /* columns of a task */
    ROW_BLOCK = 48,             /* rows that a strip is used for at a time */
    POOL_MIN = 1 << 18,         /* multiplications worth waking anybody */
    CHECKS = 500,
    CHECK_K = 70
};


typedef struct {
    moe_bf16_tile_pt  tile;
    moe_matmul_t     *parts;
    uint32_t          nparts;
} run_t;


/* columns [col, col + n) of some rows; the last column stands in for those
 * that do not exist */
static void
columns(moe_bf16_tile_pt fn, const moe_matmul_t *p, uint32_t row,
    uint32_t rows, uint32_t col, uint32_t n)
{
    float            dots[MOE_BF16_ROWS][MOE_BF16_COLS], *out;
    uint32_t         i, j;
    moe_bf16_tile_t  t;

    t.k = p->w.k;
    t.rows = rows;

    for (j = 0; j < MOE_BF16_COLS; j++) {
        t.w[j] = (const uint8_t *) p->w.data
                 + (size_t) (col + (j < n ? j : n - 1)) * p->w.k * 2;
    }

    for (i = 0; i < rows; i++) {
        t.x[i] = p->x + (row + i) * p->ldx;
    }

    fn(&t, dots);

    for (i = 0; i < rows; i++) {
        out = p->out + (row + i) * p->ldo + col;

        for (j = 0; j < n; j++) {
            out[j] = p->bias ? dots[i][j] + p->bias[col + j] : dots[i][j];
        }
    }
}


static void
task(void *ctx, uint32_t n, uint32_t thread)
{
    run_t         *run = ctx;
    uint32_t       col, end, at, block, row, rows, left;
    moe_matmul_t  *p;

    (void) thread;

    for (p = run->parts; n >= p->task_end; p++) { /* void */ }

    col = (n - (p == run->parts ? 0 : p[-1].task_end)) * STRIP;
    end = p->w.n - col < STRIP ? p->w.n : col + STRIP;

    for (block = 0; block < p->nrows; block += ROW_BLOCK) {
        left = p->nrows - block < ROW_BLOCK ? p->nrows : block + ROW_BLOCK;

        for (at = col; at < end; at += MOE_BF16_COLS) {
            for (row = block; row < left; row += rows) {
                rows = left - row < MOE_BF16_ROWS ? left - row
                                                  : MOE_BF16_ROWS;
                columns(run->tile, p, row, rows, at,
                        end - at < MOE_BF16_COLS ? end - at : MOE_BF16_COLS);
            }
        }
    }
}


/* parts of bfloat16 alone */
static void
matmul_run(const moe_kctx_t *c, moe_bf16_tile_pt tile, moe_matmul_t *parts,
    uint32_t nparts)
{
    run_t     run = { tile, parts, nparts };
    double    work;
    uint32_t  i, tasks;

    tasks = 0;
    work = 0;

    for (i = 0; i < nparts; i++) {
        if (parts[i].nrows != 0) {
            tasks += (parts[i].w.n + STRIP - 1) / STRIP;
        }

        parts[i].task_end = tasks;
        work += (double) parts[i].nrows * parts[i].w.n * parts[i].w.k;
    }

    if (work >= POOL_MIN && tasks > 1) {
        moe_pool_run(c->pool, tasks, task, &run);
        return;
    }

    for (i = 0; i < tasks; i++) {
        task(&run, i, 0);
    }
}


/* parts that follow on each other and are of one kind are done together */
static void
matmul(const moe_kctx_t *c, const moe_kernels_t *base, moe_bf16_tile_pt tile,
    moe_matmul_t *parts, uint32_t nparts)
{
    int       bf16;
    uint32_t  n;

    for (/* void */; nparts != 0; parts += n, nparts -= n) {
        bf16 = parts[0].w.type == MOE_W_BF16;

        for (n = 1; n < nparts; n++) {
            if ((parts[n].w.type == MOE_W_BF16) != bf16) {
                break;
            }
        }

        if (bf16) {
            matmul_run(c, tile, parts, n);
        } else {
            base->matmul(c, parts, n);
        }
    }
}


static void
matmul_plain(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    matmul(c, &moe_kernels_plain, moe_bf16_tile_plain, parts, nparts);
}


static void
matmul_avx512(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    matmul(c, &moe_kernels_avx512, moe_bf16_tile_avx512, parts, nparts);
}


/* the sets that they are made of, but for one operation */

static moe_kernels_t   plain, avx512;
static pthread_once_t  once = PTHREAD_ONCE_INIT;


static void
make_sets(void)
{
    plain = moe_kernels_plain;
    plain.name = "plain-bf16";
    plain.matmul = matmul_plain;

    avx512 = moe_kernels_avx512;
    avx512.name = "avx512-bf16";
    avx512.matmul = matmul_avx512;

    plain.set = avx512.set = "lanes16-fma-bf16";
}


const moe_kernels_t *
moe_bf16_plain(void)
{
    (void) pthread_once(&once, make_sets);

    return &plain;
}


const moe_kernels_t *
moe_bf16_avx512(void)
{
    (void) pthread_once(&once, make_sets);

    return &avx512;
}


static uint32_t
next(uint64_t *r)
{
    *r = *r * 6364136223846793005u + 1442695040888963407u;

    return (uint32_t) (*r >> 32);
}


/* bits of a float32: of any kind, or numbers like those of a model, or whose
 * products are about the least normal number */
static uint32_t
check_value(uint64_t *r, int kind)
{
    uint32_t  u, exp;

    static const uint32_t  extremes[] = {
        0, 1, 0x007fffff, 0x007f8000, 0x00800000, 0x00807fff, 0x3f800000,
        0x3f808000, 0x3f818000, 0x7f7fffff, 0x7f7f0000, 0x7f800000,
        0x7fc00000, 0x7f800001
    };

    u = next(r);

    switch (kind) {
    case 0:
        return u;
    case 1:
        exp = 120 + next(r) % 10;
        break;
    case 2:
        exp = 58 + next(r) % 10;
        break;
    default:
        return extremes[u % (sizeof(extremes) / sizeof(extremes[0]))]
               | (u & 0x80000000);
    }

    return (u & 0x807fffff) | exp << 23;
}


int
moe_bf16_agrees(moe_bf16_tile_pt tile)
{
    int              n;
    float            x[MOE_BF16_ROWS][CHECK_K];
    float            a[MOE_BF16_ROWS][MOE_BF16_COLS];
    float            b[MOE_BF16_ROWS][MOE_BF16_COLS];
    uint16_t         w[MOE_BF16_COLS][CHECK_K];
    uint32_t         i, j, u;
    uint64_t         r;
    moe_bf16_tile_t  t;

    r = 1;

    for (n = 0; n < CHECKS; n++) {
        t.rows = 1 + (uint32_t) n % MOE_BF16_ROWS;

        /* few, so that not all sums are infinite, and many */
        t.k = n % 8 < 6 ? 1 + next(&r) % 4 : 1 + next(&r) % CHECK_K;

        for (j = 0; j < CHECK_K; j++) {
            for (i = 0; i < MOE_BF16_ROWS; i++) {
                u = check_value(&r, n % 4);
                memcpy(&x[i][j], &u, 4);
            }

            for (i = 0; i < MOE_BF16_COLS; i++) {
                w[i][j] = (uint16_t) (check_value(&r, n % 4) >> 16);
            }
        }

        for (i = 0; i < MOE_BF16_ROWS; i++) {
            t.x[i] = x[i];
        }

        for (i = 0; i < MOE_BF16_COLS; i++) {
            t.w[i] = (const uint8_t *) w[i];
        }

        moe_bf16_tile_plain(&t, a);
        tile(&t, b);

        for (i = 0; i < t.rows; i++) {
            for (j = 0; j < MOE_BF16_COLS; j++) {
                if (memcmp(&a[i][j], &b[i][j], 4) != 0
                    && !(isnan(a[i][j]) && isnan(b[i][j])))
                {
                    return 0;
                }
            }
        }
    }

    return 1;
}
