/* body_matmul: products with weights, one body for all VL */

enum {
    COLS = 4,                   /* columns of a tile; 8 for one row */
    STRIP_MAX = 64,             /* columns of a task */
    ROW_BLOCK = 48,             /* rows that a strip is used for at a time */
    TASK_MIN = 32768,           /* multiplications worth a task */
    POOL_MIN = 8 * TASK_MIN     /* ... worth waking anybody */
};


/* rows of x against columns of w, both by pointer, so that attention's
 * queries and keys fit too */
typedef struct {
    const float    *x[ROW_TILE > 4 ? ROW_TILE : 4];
    const uint8_t  *w[8];
    const float    *scale[8];   /* F8: a column's scales along k */
    size_t          ahead;      /* bytes from w to the next tile's; a column
                                 * is often a page of memory, beyond which
                                 * the processor does not look by itself */
} tile_t;


/* adds the lanes that begin at from, every 16 up to to, to the sums */
INLINE void
tile_run(const tile_t *t, moe_wtype_e type, int rt, int nt, size_t from,
    size_t to, const float *scale, vf acc[][8])
{
    int     i, j;
    vf      w[8], x;
    size_t  k, size;

    size = type_size(type);

    for (k = from; k < to; k += MOE_LANES) {

        UNROLL
        for (j = 0; j < nt; j++) {
            w[j] = load_as_f32(type, t->w[j] + k * size);
            if (rt == 1) {
                __builtin_prefetch(t->w[j] + t->ahead + k * size);
            }
            if (type == MOE_W_F8_E4M3) {
                w[j] = w[j] * scale[j];
            }
        }

        UNROLL
        for (i = 0; i < rt; i++) {
            x = vf_load(t->x[i] + k);

            UNROLL
            for (j = 0; j < nt; j++) {
                acc[i][j] = vf_fma(x, w[j], acc[i][j]);
            }
        }
    }
}


/* the n < 16 elements from k on, with zeros behind them */
INLINE void
tile_tail(const tile_t *t, moe_wtype_e type, int rt, int nt, size_t k,
    size_t n, const float *scale, vf acc[][8])
{
    int    i, j;
    vf     w, x[8];

    for (i = 0; i < rt; i++) {
        x[i] = load_part_as_f32(MOE_W_F32, (const uint8_t *) (t->x[i] + k),
                                n);
    }

    for (j = 0; j < nt; j++) {
        w = load_part_as_f32(type, t->w[j] + k * type_size(type), n);
        if (type == MOE_W_F8_E4M3) {
            w = w * scale[j];
        }

        for (i = 0; i < rt; i++) {
            acc[i][j] = vf_fma(x[i], w, acc[i][j]);
        }
    }
}


/* dots[i][j] = x[i] . w[j] over k */
INLINE void
tile(const tile_t *t, moe_wtype_e type, int rt, int nt, size_t k,
    float dots[][8])
{
    int     i, j, v;
    vf      acc[ROW_TILE > 4 ? ROW_TILE : 4][8];
    float   lanes[ROW_TILE > 4 ? ROW_TILE : 4][8][MOE_LANES];
    float   scale[8];
    size_t  from, to, whole, lane;

    whole = k / MOE_LANES * MOE_LANES;

    for (v = 0; v < NV; v++) {

        lane = (size_t) v * VL;

        UNROLL
        for (i = 0; i < rt; i++) {
            UNROLL
            for (j = 0; j < nt; j++) {
                acc[i][j] = vf_set(0.0f);
            }
        }

        if (type != MOE_W_F8_E4M3) {
            tile_run(t, type, rt, nt, lane, whole, NULL, acc);

        } else {
            for (from = 0; from < whole; from = to) {
                to = from + 128 < whole ? from + 128 : whole;

                for (j = 0; j < nt; j++) {
                    scale[j] = t->scale[j][from / 128];
                }

                tile_run(t, type, rt, nt, from + lane, to, scale, acc);
            }
        }

        if (whole + lane < k) {

            if (type == MOE_W_F8_E4M3) {
                for (j = 0; j < nt; j++) {
                    scale[j] = t->scale[j][whole / 128];
                }
            }

            tile_tail(t, type, rt, nt, whole + lane,
                      k - whole - lane < VL ? k - whole - lane : VL, scale,
                      acc);
        }

        UNROLL
        for (i = 0; i < rt; i++) {
            UNROLL
            for (j = 0; j < nt; j++) {
                vf_store(&lanes[i][j][lane], acc[i][j]);
            }
        }
    }

    UNROLL
    for (i = 0; i < rt; i++) {
        UNROLL
        for (j = 0; j < nt; j += 4) {
            *(v4_mem *) &dots[i][j] = lanes_sum4(lanes[i][j], MOE_LANES);
        }
    }
}


INLINE void
tile_rows(const tile_t *t, moe_wtype_e type, int rt, size_t k,
    float dots[][8])
{
    switch (rt) {
    case 1:
        tile(t, type, 1, 8, k, dots);
        break;
    case 2:
        tile(t, type, 2, COLS, k, dots);
        break;
    case 3:
        tile(t, type, 3, COLS, k, dots);
        break;
#if ROW_TILE > 3
    case 4:
        tile(t, type, 4, COLS, k, dots);
        break;
    case 5:
        tile(t, type, 5, COLS, k, dots);
        break;
    default:
        tile(t, type, 6, COLS, k, dots);
#endif
    }
}


/* one function a type, so that the loops above know it */

static void
tile_f32(const tile_t *t, int rt, size_t k, float dots[][8])
{
    tile_rows(t, MOE_W_F32, rt, k, dots);
}


static void
tile_f16(const tile_t *t, int rt, size_t k, float dots[][8])
{
    tile_rows(t, MOE_W_F16, rt, k, dots);
}


static void
tile_bf16(const tile_t *t, int rt, size_t k, float dots[][8])
{
    tile_rows(t, MOE_W_BF16, rt, k, dots);
}


static void
tile_f8(const tile_t *t, int rt, size_t k, float dots[][8])
{
    tile_rows(t, MOE_W_F8_E4M3, rt, k, dots);
}


typedef void (*tile_pt)(const tile_t *t, int rt, size_t k, float dots[][8]);


static tile_pt
tile_for(moe_wtype_e type)
{
    static const tile_pt  tiles[] = {
        [MOE_W_F32] = tile_f32,
        [MOE_W_F16] = tile_f16,
        [MOE_W_BF16] = tile_bf16,
        [MOE_W_F8_E4M3] = tile_f8
    };

    return tiles[type];
}


/* columns [col, end) of rows [row, row + rt); the last column stands in for
 * those that do not exist */
static void
matmul_tile(const moe_matmul_t *p, tile_pt fn, uint32_t row, int rt,
    uint32_t col, uint32_t end)
{
    int                  i, j, nt, n;
    float                dots[ROW_TILE > 4 ? ROW_TILE : 4][8];
    float               *out;
    size_t               at;
    tile_t               t;
    const moe_matrix_t  *w;

    w = &p->w;
    nt = rt == 1 ? 8 : COLS;
    n = end - col < (uint32_t) nt ? (int) (end - col) : nt;

    for (j = 0; j < nt; j++) {
        at = col + (j < n ? j : n - 1);
        t.w[j] = (const uint8_t *) w->data + at * w->k * type_size(w->type);

        if (w->type == MOE_W_F8_E4M3) {
            t.scale[j] = w->scale + (at + w->row0) / 128 * w->scale_cols;
        }
    }

    t.ahead = (size_t) nt * w->k * type_size(w->type);

    for (i = 0; i < rt; i++) {
        t.x[i] = p->x + (row + i) * p->ldx;
    }

    fn(&t, rt, w->k, dots);

    for (i = 0; i < rt; i++) {
        out = p->out + (row + i) * p->ldo + col;

        for (j = 0; j < n; j++) {
            out[j] = p->bias ? dots[i][j] + p->bias[col + j] : dots[i][j];
        }
    }
}


typedef struct {
    moe_matmul_t  *parts;
    uint32_t       nparts;
} matmul_ctx_t;


static const moe_matmul_t *
matmul_part(const matmul_ctx_t *c, uint32_t *task)
{
    uint32_t  lo, hi, mid;

    lo = 0;
    hi = c->nparts - 1;

    while (lo < hi) {
        mid = (lo + hi) / 2;
        if (*task < c->parts[mid].task_end) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }

    *task -= lo ? c->parts[lo - 1].task_end : 0;

    return &c->parts[lo];
}


static void
matmul_task(void *ctx, uint32_t task, uint32_t thread)
{
    int                  rt;
    tile_pt              fn;
    uint32_t             block, rows, row, col, begin, end, width;
    const moe_matmul_t  *p;

    p = matmul_part(ctx, &task);

    begin = task * p->strip;
    end = p->w.n - begin < p->strip ? p->w.n : begin + p->strip;

    if (moe_is_packed(p->w.type)) {
        moe_packed_columns(&MOE_PACKED, p, begin, end);
        return;
    }

    fn = tile_for(p->w.type);

    for (block = 0; block < p->nrows; block += ROW_BLOCK) {
        rows = p->nrows - block < ROW_BLOCK ? p->nrows : block + ROW_BLOCK;

        width = p->nrows == 1 ? 8 : COLS;

        for (col = begin; col < end; col += width) {
            for (row = block; row < rows; row += rt) {
                rt = rows - row < ROW_TILE ? (int) (rows - row) : ROW_TILE;
                matmul_tile(p, fn, row, rt, col, end);
            }
        }
    }
}


/* cuts every part into strips of columns; returns the number of tasks */
static uint32_t
matmul_cut(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    double         work, each, column;
    uint32_t       i, tasks, threads;
    moe_matmul_t  *p;

    work = 0;
    for (i = 0; i < nparts; i++) {
        p = &parts[i];
        work += (double) p->nrows * p->w.n * p->w.k;
    }

    threads = moe_pool_threads(c->pool);
    each = work / (threads * 6);
    if (each < TASK_MIN || threads == 1) {
        each = threads == 1 ? work : TASK_MIN;
    }

    tasks = 0;
    for (i = 0; i < nparts; i++) {
        p = &parts[i];
        column = (double) p->nrows * p->w.k;

        p->strip = STRIP_MAX;
        if (column * STRIP_MAX > each) {
            p->strip = (uint32_t) (each / (column * 8)) * 8;
            p->strip = p->strip ? p->strip : 8;
        }

        if (moe_is_packed(p->w.type)) {
            p->strip = (p->strip + MOE_STRIP - 1) / MOE_STRIP * MOE_STRIP;
        }

        if (p->nrows != 0) {
            tasks += (p->w.n + p->strip - 1) / p->strip;
        }
        p->task_end = tasks;
    }

    return work < POOL_MIN ? 0 : tasks;
}


static void
matmul_run(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    uint32_t      i, tasks;
    matmul_ctx_t  ctx = { parts, nparts };

    tasks = matmul_cut(c, parts, nparts);

    if (tasks != 0) {
        moe_pool_run(c->pool, tasks, matmul_task, &ctx);
        return;
    }

    tasks = parts[nparts - 1].task_end;
    for (i = 0; i < tasks; i++) {
        matmul_task(&ctx, i, 0);
    }
}


/* all at once, but where rows for packed parts do not fit */
static void
op_matmul(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    uint32_t      n;
    moe_matmul_t  some;

    while (nparts != 0) {

        n = moe_packed_rows(c, &MOE_PACKED, parts, nparts);

        if (n != 0) {
            matmul_run(c, parts, n);

        } else {
            some = parts[0];
            some.nrows = (uint32_t) (c->quant_size
                                     / moe_quant_row(some.w.k));
            if (some.nrows == 0) {
                return;
            }

            (void) moe_packed_rows(c, &MOE_PACKED, &some, 1);
            matmul_run(c, &some, 1);

            parts[0].x += some.nrows * some.ldx;
            parts[0].out += some.nrows * some.ldo;
            parts[0].nrows -= some.nrows;
        }

        parts += n;
        nparts -= n;
    }
}


static void
op_glu(const moe_kctx_t *c, moe_glu_t *parts, uint32_t nparts)
{
    moe_packed_glu(c, &MOE_PACKED, parts, nparts);
}


static uint64_t
op_probe_int8(uint64_t rounds)
{
    return MOE_PACKED.probe_int8(rounds);
}


static uint64_t
op_probe_read(const void *p, size_t n)
{
    return MOE_PACKED.probe_read(p, n);
}


/* transposed: rt rows of x, nt registers of columns from col on; the last
 * one may be partly beyond w.k */
INLINE void
tile_t_run(const moe_matmul_t *p, moe_wtype_e type, uint32_t row, int rt,
    uint32_t col, int nt)
{
    int             i, j, n;
    vf              acc[4][4], w;
    float           x, scale;
    size_t          size, pitch;
    uint32_t        r, at;
    const uint8_t  *data;

    size = type_size(type);
    pitch = p->w.k * size;
    data = (const uint8_t *) p->w.data + col * size;

    for (i = 0; i < rt; i++) {
        for (j = 0; j < nt; j++) {
            acc[i][j] = vf_set(0.0f);
        }
    }

    for (r = 0; r < p->w.n; r++, data += pitch) {

        UNROLL
        for (j = 0; j < nt; j++) {
            at = col + j * VL;
            n = p->w.k - at < VL ? (int) (p->w.k - at) : VL;

            w = n == VL ? load_as_f32(type, data + j * VL * size)
                        : load_part_as_f32(type, data + j * VL * size, n);

            if (type == MOE_W_F8_E4M3) {
                scale = p->w.scale[(size_t) (r + p->w.row0) / 128
                                   * p->w.scale_cols + at / 128];
                w = w * scale;
            }

            UNROLL
            for (i = 0; i < rt; i++) {
                x = p->x[(row + i) * p->ldx + r];
                acc[i][j] = vf_fma(w, vf_set(x), acc[i][j]);
            }
        }
    }

    for (i = 0; i < rt; i++) {
        for (j = 0; j < nt; j++) {
            at = col + j * VL;
            n = p->w.k - at < VL ? (int) (p->w.k - at) : VL;
            memcpy(p->out + (row + i) * p->ldo + at, &acc[i][j],
                   (size_t) n * 4);
        }
    }
}


INLINE void
tile_t_sizes(const moe_matmul_t *p, moe_wtype_e type)
{
    int       rt;
    uint32_t  row, col;

    for (col = 0; col < p->w.k; col += 2 * VL) {
        for (row = 0; row < p->nrows; row += rt) {
            rt = p->nrows - row < 4 ? 1 : 4;

            if (p->w.k - col > VL) {
                if (rt == 4) {
                    tile_t_run(p, type, row, 4, col, 2);
                } else {
                    tile_t_run(p, type, row, 1, col, 2);
                }

            } else if (rt == 4) {
                tile_t_run(p, type, row, 4, col, 1);

            } else {
                tile_t_run(p, type, row, 1, col, 1);
            }
        }
    }
}


static void
matmul_t_task(void *ctx, uint32_t task, uint32_t thread)
{
    matmul_ctx_t        *c = ctx;
    const moe_matmul_t  *p;

    p = &c->parts[task];

    switch (p->w.type) {
    case MOE_W_F32:
        tile_t_sizes(p, MOE_W_F32);
        break;
    case MOE_W_F16:
        tile_t_sizes(p, MOE_W_F16);
        break;
    case MOE_W_BF16:
        tile_t_sizes(p, MOE_W_BF16);
        break;
    default:
        tile_t_sizes(p, MOE_W_F8_E4M3);
    }
}


static void
op_matmul_t(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    double        work;
    uint32_t      i;
    matmul_ctx_t  ctx = { parts, nparts };

    work = 0;
    for (i = 0; i < nparts; i++) {
        work += (double) parts[i].nrows * parts[i].w.n * parts[i].w.k;
    }

    if (work >= POOL_MIN) {
        moe_pool_run(c->pool, nparts, matmul_t_task, &ctx);
        return;
    }

    for (i = 0; i < nparts; i++) {
        matmul_t_task(&ctx, i, 0);
    }
}
