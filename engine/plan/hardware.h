/*
 * hardware: what a fleet's machines can do, by name or from a file.
 *
 * Rates are peaks of dense arithmetic as the maker gives them; how much of
 * them is reached is in the efficiencies, which are calibrated on published
 * measurements for Hopper and taken over for the others.
 */

#ifndef MOE_PLAN_HARDWARE_H
#define MOE_PLAN_HARDWARE_H


#include <stddef.h>

#include "base/err.h"


typedef struct {
    char    name[32];
    int     calibrated;     /* measured fleets stand behind the figures */
    double  mem;            /* bytes a device */
    double  bw;             /* bytes a second from its memory */
    double  gemm;           /* operations a second, weights as they are kept */
    double  wide;           /* operations a second of attention and head */
    double  link;           /* bytes a second and direction inside a domain */
    double  nic;            /* and out of it, a device */
    double  domain;         /* devices that the inner link joins */
    double  lat_in;         /* seconds before the first byte, inside */
    double  lat_out;        /* and outside */

    double  mem_eff;        /* of bw, when weights are read */
    double  gemm_eff;       /* of gemm, with many rows an expert ... */
    double  m_half;         /* ... and half of that with so many */
    double  attn_bw;        /* of bw, when KV is read */
    double  attn_eff;       /* of wide, in attention */
    double  layer_s;        /* seconds a layer for all else, at least ... */
    double  row_s;          /* ... and more for each row */
    double  step_s;         /* seconds a step for sampling and scheduling */
    double  reserve;        /* bytes for buffers, graphs, the library ... */
    double  util;           /* ... and the part of mem to be had at all */
} moe_plan_hardware_t;


/* The profile number i; NULL behind the last. */
const moe_plan_hardware_t *moe_plan_hardware_at(size_t i);

/*
 * name is a profile's, or a JSON file with the fields above: "base" names the
 * profile that gives what the file does not.  -1 and a line in err for an
 * unknown name, a wrong key or a value that is not a positive number.
 */
int moe_plan_hardware(const char *name, moe_plan_hardware_t *hw,
    moe_err_t *err);


#endif /* MOE_PLAN_HARDWARE_H */
