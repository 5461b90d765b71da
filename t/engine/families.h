/* families: the golden models, by number. */

#ifndef MOE_FAMILIES_H
#define MOE_FAMILIES_H


#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>


/* returns how many there are */
static inline uint32_t
each_golden(void (*check)(const char *dir, uint32_t family))
{
    int              i, n;
    char             path[600];
    uint32_t         family;
    struct dirent  **list;

    n = scandir("t/golden", &list, NULL, alphasort);
    assert_true(n > 0);
    family = 0;

    for (i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "t/golden/%s/config.json",
                 list[i]->d_name);

        if (access(path, R_OK) == 0) {
            *strrchr(path, '/') = '\0';
            check(path, family++);
        }

        free(list[i]);
    }

    free(list);
    assert_true(family > 6);

    return family;
}


#endif /* MOE_FAMILIES_H */
