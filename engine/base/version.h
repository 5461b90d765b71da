/* version: the program's, in one place */

#ifndef MOE_VERSION_H
#define MOE_VERSION_H


#define MOE_VERSION  "0.1.0"


#endif /* MOE_VERSION_H */
