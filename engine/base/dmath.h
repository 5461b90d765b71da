/*
 * dmath: exp and log that give the same bits on every machine.
 *
 * The C library's may differ in the last bit from one version or processor to
 * the next; these use nothing but IEEE additions, multiplications and one
 * division, in one order.  Errors are below 2 units in the last place.
 */

#ifndef MOE_DMATH_H
#define MOE_DMATH_H


/* e^x; 0 below -708, the value at 709 above it, NaN for NaN */
double moe_dexp(double x);

/* natural logarithm of a normal number; x <= 0 or NaN gives NaN */
double moe_dlog(double x);

/* out[i] = e^x[i], each with the bits of moe_dexp(); may be in place */
void moe_dexp_array(const double *x, double *out, int n);


#endif /* MOE_DMATH_H */
