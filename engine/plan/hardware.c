#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "plan/hardware.h"


/* what Hopper's kernels reach: DeepGEMM, FlashMLA (3.0 TB/s and 600 TFLOPS
 * on an H800), and a rest that was fitted to whole fleets */
#define HOPPER                                                               \
    .mem_eff = 0.80, .gemm_eff = 0.60, .m_half = 48,                         \
    .attn_bw = 3.0 / 3.35, .attn_eff = 600.0 / 989,                          \
    .layer_s = 45e-6, .row_s = 0.12e-6, .step_s = 0.8e-3,                    \
    .reserve = 6e9, .util = 0.92,                                            \
    .domain = 8, .lat_in = 15e-6, .lat_out = 45e-6


static const moe_plan_hardware_t  profiles[] = {
    { .name = "h800", .calibrated = 1, .mem = 80e9, .bw = 3.35e12,
      .gemm = 1979e12, .wide = 989e12, .link = 160e9, .nic = 50e9, HOPPER },
    { .name = "h100", .calibrated = 1, .mem = 80e9, .bw = 3.35e12,
      .gemm = 1979e12, .wide = 989e12, .link = 400e9, .nic = 50e9, HOPPER },
    { .name = "h200", .calibrated = 0, .mem = 141e9, .bw = 4.8e12,
      .gemm = 1979e12, .wide = 989e12, .link = 400e9, .nic = 50e9, HOPPER },
    { .name = "b200", .calibrated = 0, .mem = 180e9, .bw = 7.7e12,
      .gemm = 4500e12, .wide = 2250e12, .link = 730e9, .nic = 50e9, HOPPER },

    /* one NVLink domain of 72 */
    { .name = "gb200", .calibrated = 0, .mem = 186e9, .bw = 8e12,
      .gemm = 5000e12, .wide = 2500e12, .link = 730e9, .nic = 50e9,
      .mem_eff = 0.80, .gemm_eff = 0.60, .m_half = 48,
      .attn_bw = 3.0 / 3.35, .attn_eff = 600.0 / 989,
      .layer_s = 45e-6, .row_s = 0.12e-6, .step_s = 0.8e-3,
      .reserve = 6e9, .util = 0.92,
      .domain = 72, .lat_in = 15e-6, .lat_out = 45e-6 },

    /* a socket's worth of two cores with VNNI, ranks over shared memory */
    { .name = "cpu2", .calibrated = 0, .mem = 24e9, .bw = 42e9,
      .gemm = 1.9e12, .wide = 0.48e12, .link = 10e9, .nic = 1.2e9,
      .mem_eff = 0.85, .gemm_eff = 0.65, .m_half = 12,
      .attn_bw = 0.7, .attn_eff = 0.3,
      .layer_s = 20e-6, .row_s = 5e-6, .step_s = 0.2e-3,
      .reserve = 0.5e9, .util = 0.92,
      .domain = 8, .lat_in = 5e-6, .lat_out = 50e-6 }
};

#define PROFILES  (sizeof(profiles) / sizeof(profiles[0]))


#define FIELD(f)  { #f, offsetof(moe_plan_hardware_t, f) }

static const struct {
    const char  *key;
    size_t       offset;
} fields[] = {
    FIELD(mem), FIELD(bw), FIELD(gemm), FIELD(wide), FIELD(link), FIELD(nic),
    FIELD(domain), FIELD(lat_in), FIELD(lat_out), FIELD(mem_eff),
    FIELD(gemm_eff), FIELD(m_half), FIELD(attn_bw), FIELD(attn_eff),
    FIELD(layer_s), FIELD(row_s), FIELD(step_s), FIELD(reserve), FIELD(util)
};

#define FIELDS  (sizeof(fields) / sizeof(fields[0]))


static const moe_plan_hardware_t *find(const char *name);
static int from_file(const char *path, json_t *root, moe_plan_hardware_t *hw,
    moe_err_t *err);
static int set(const char *path, const char *key, json_t *value,
    moe_plan_hardware_t *hw, moe_err_t *err);


const moe_plan_hardware_t *
moe_plan_hardware_at(size_t i)
{
    return i < PROFILES ? &profiles[i] : NULL;
}


static const moe_plan_hardware_t *
find(const char *name)
{
    size_t  i;

    for (i = 0; i < PROFILES; i++) {
        if (strcasecmp(name, profiles[i].name) == 0) {
            return &profiles[i];
        }
    }

    return NULL;
}


int
moe_plan_hardware(const char *name, moe_plan_hardware_t *hw, moe_err_t *err)
{
    int                         rc;
    json_t                     *root;
    json_error_t                error;
    const moe_plan_hardware_t  *known;

    known = find(name);

    if (known != NULL) {
        *hw = *known;
        return 0;
    }

    if (strpbrk(name, "./") == NULL) {
        return moe_err(err, "no hardware profile \"%s\"; a file's name has "
                       "a \"/\" or a \".\" in it", name);
    }

    root = json_load_file(name, JSON_REJECT_DUPLICATES, &error);

    if (root == NULL) {
        return moe_err(err, "%s: line %d: %s", name, error.line, error.text);
    }

    rc = from_file(name, root, hw, err);
    json_decref(root);

    return rc;
}


static int
from_file(const char *path, json_t *root, moe_plan_hardware_t *hw,
    moe_err_t *err)
{
    json_t                     *value;
    const char                 *key, *base;
    const moe_plan_hardware_t  *known;

    base = json_string_value(json_object_get(root, "base"));

    if (base == NULL) {
        return moe_err(err, "%s: \"base\" must name a profile", path);
    }

    known = find(base);

    if (known == NULL) {
        return moe_err(err, "%s: base: no hardware profile \"%s\"", path,
                       base);
    }

    *hw = *known;
    hw->calibrated = 0;

    json_object_foreach(root, key, value) {
        if (strcmp(key, "base") == 0) {
            continue;
        }

        if (set(path, key, value, hw, err) != 0) {
            return -1;
        }
    }

    return 0;
}


static int
set(const char *path, const char *key, json_t *value, moe_plan_hardware_t *hw,
    moe_err_t *err)
{
    double  x;
    size_t  i;

    if (strcmp(key, "name") == 0 && json_is_string(value)) {
        snprintf(hw->name, sizeof(hw->name), "%s", json_string_value(value));
        return 0;
    }

    for (i = 0; i < FIELDS; i++) {
        if (strcmp(key, fields[i].key) != 0) {
            continue;
        }

        x = json_number_value(value);

        if (!json_is_number(value) || !(x > 0) || x > 1e18) {
            return moe_err(err, "%s: %s: must be a positive number", path,
                           key);
        }

        memcpy((char *) hw + fields[i].offset, &x, sizeof(double));
        return 0;
    }

    return moe_err(err, "%s: there is no \"%s\"", path, key);
}
