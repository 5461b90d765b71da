/* host: pure functions that the host's compiler and the device's take alike */

#ifndef MOE_HOST_H
#define MOE_HOST_H


#if defined(__CUDACC__)
#define MOE_HOST_DEVICE  __host__ __device__
#else
#define MOE_HOST_DEVICE
#endif


#endif /* MOE_HOST_H */
