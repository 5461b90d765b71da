#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ep/link.h"


#define PLUGIN  "moe_mpi.so"


/* beside the program, then where it is installed */
static const char *const  places[] = { "%.*s/" PLUGIN,
                                       "%.*s/../lib/ngx_moe/" PLUGIN };


static int
find(char *path, size_t size, moe_err_t *err)
{
    int      n;
    char     self[PATH_MAX], *slash;
    size_t   i;
    ssize_t  len;

    len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (len <= 0) {
        return moe_err(err, "/proc/self/exe cannot be read");
    }

    self[len] = '\0';
    slash = strrchr(self, '/');
    n = slash ? (int) (slash - self) : 0;

    for (i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (snprintf(path, size, places[i], n, self) < (int) size
            && access(path, R_OK) == 0)
        {
            return 0;
        }
    }

    return moe_err(err, "ranks on several hosts need " PLUGIN ", which is "
                   "neither in %.*s nor in %.*s/../lib/ngx_moe (make mpi)",
                   n, self, n, self);
}


const moe_link_t *
moe_link_load(const char *path, moe_err_t *err)
{
    void               *so;
    char                found[PATH_MAX + 32];
    const char         *why;
    const moe_link_t   *link;
    moe_link_plugin_pt  plugin;

    if (path == NULL) {
        if (find(found, sizeof(found), err) != 0) {
            return NULL;
        }

        path = found;
    }

    /* an MPI library loads parts of itself, which look for it there */
    so = dlopen(path, RTLD_NOW|RTLD_GLOBAL);

    if (so == NULL) {
        why = dlerror();
        moe_err(err, "%s", why ? why : path);
        return NULL;
    }

    plugin = (moe_link_plugin_pt) dlsym(so, MOE_LINK_SYMBOL);
    link = plugin ? plugin() : NULL;

    if (link == NULL || link->version != MOE_LINK_VERSION) {
        moe_err(err, "%s: made for another version of moe-engine", path);
        dlclose(so);
        return NULL;
    }

    return link;
}
