
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * moe_engine: nginx has an engine started and kept alive.
 *
 * The master has no hook that is right for this, so a worker does it: who
 * gets the lock beside the socket forks twice and becomes the supervisor,
 * which inherits the lock and so is the only one.  It outlives the worker, a
 * reload and an upgrade, and ends when no worker has been connected for a
 * grace period; for that each worker keeps a lane to it.
 */


#include "ngx_http_moe.h"


#include <sys/file.h>
#include <sys/syscall.h>


#define NGX_HTTP_MOE_ENGINE_CHECK  1000


static char *ngx_http_moe_engine_directive(ngx_conf_t *cf,
    ngx_command_t *dummy, void *conf);
static char *ngx_http_moe_engine_socket(ngx_conf_t *cf,
    ngx_http_moe_engine_t *e, ngx_str_t *value);
static char *ngx_http_moe_engine_options(ngx_conf_t *cf,
    ngx_http_moe_engine_t *e);
static void ngx_http_moe_engine_cleanup(void *data);
static void ngx_http_moe_engine_timer(ngx_event_t *ev);
static void ngx_http_moe_engine_start(ngx_http_moe_engine_t *e);
static ngx_int_t ngx_http_moe_engine_fork(ngx_http_moe_engine_t *e,
    ngx_fd_t lock, char **argv);
static char **ngx_http_moe_engine_argv(ngx_http_moe_engine_t *e,
    ngx_fd_t lock, ngx_pool_t *pool);
static void ngx_http_moe_engine_close(ngx_fd_t first, ngx_fd_t last);
static void ngx_http_moe_engine_exec(ngx_http_moe_engine_t *e, ngx_fd_t lock,
    char **argv);


char *
ngx_http_moe_engine_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_moe_main_conf_t *mmcf = conf;

    char                   *rv;
    ngx_uint_t              i, line;
    ngx_conf_t              save;
    ngx_http_moe_engine_t  *e, *other;

    line = cf->conf_file->line;

    e = ngx_array_push(&mmcf->engines);
    if (e == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(e, sizeof(ngx_http_moe_engine_t));

    e->grace = NGX_CONF_UNSET_MSEC;

    e->options = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
    if (e->options == NULL) {
        return NGX_CONF_ERROR;
    }

    save = *cf;
    cf->handler = ngx_http_moe_engine_directive;
    cf->handler_conf = (char *) e;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (e->addr.sockaddr == NULL || e->model.len == 0) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"moe_engine\" needs \"socket\" and \"model\" "
                      "in %s:%ui", cf->conf_file->file.name.data, line);
        return NGX_CONF_ERROR;
    }

    if (e->program.len == 0) {
        ngx_str_set(&e->program, "moe-engine");
    }

    ngx_conf_init_msec_value(e->grace, 10000);

    other = mmcf->engines.elts;

    for (i = 0; i < mmcf->engines.nelts - 1; i++) {

        if (other[i].addr.socklen == e->addr.socklen
            && ngx_memcmp(other[i].addr.sockaddr, e->addr.sockaddr,
                          e->addr.socklen)
               == 0)
        {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "duplicate \"moe_engine\" socket \"%V\" "
                          "in %s:%ui", &e->addr.name,
                          cf->conf_file->file.name.data, line);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_moe_engine_directive(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf)
{
    ngx_http_moe_engine_t *e = conf;

    ngx_str_t   *value, *to;
    ngx_uint_t   full;

    value = cf->args->elts;
    to = NULL;
    full = 0;

    if (ngx_strcmp(value[0].data, "option") == 0 && cf->args->nelts > 1) {
        return ngx_http_moe_engine_options(cf, e);
    }

    if (cf->args->nelts != 2) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"%V\" directive",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    if (ngx_strcmp(value[0].data, "socket") == 0) {
        return ngx_http_moe_engine_socket(cf, e, &value[1]);
    }

    if (ngx_strcmp(value[0].data, "model") == 0) {
        to = &e->model;
        full = 1;

    } else if (ngx_strcmp(value[0].data, "program") == 0) {
        to = &e->program;
        full = ngx_strchr(value[1].data, '/') != NULL;

    } else if (ngx_strcmp(value[0].data, "log") == 0) {
        to = &e->log;
        full = 1;

    } else if (ngx_strcmp(value[0].data, "grace") == 0) {

        if (e->grace != NGX_CONF_UNSET_MSEC) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"grace\" directive "
                               "is duplicate");
            return NGX_CONF_ERROR;
        }

        e->grace = ngx_parse_time(&value[1], 0);

        if (e->grace == (ngx_msec_t) NGX_ERROR || e->grace < 1000
            || e->grace > 86400000)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid grace \"%V\", it must be between 1s "
                               "and 1d", &value[1]);
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    if (to == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown directive \"%V\" in \"moe_engine\"",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    if (to->len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" directive is "
                           "duplicate", &value[0]);
        return NGX_CONF_ERROR;
    }

    *to = value[1];

    if (full && ngx_conf_full_name(cf->cycle, to, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_moe_engine_socket(ngx_conf_t *cf, ngx_http_moe_engine_t *e,
    ngx_str_t *value)
{
    ngx_url_t  u;

    if (e->addr.sockaddr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"socket\" directive is "
                           "duplicate");
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url = *value;
    u.no_resolve = 1;

    if (value->len <= 5 || ngx_strncmp(value->data, "unix:", 5) != 0
        || ngx_parse_url(cf->pool, &u) != NGX_OK || u.naddrs != 1)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in engine's socket \"%V\"",
                           u.err ? u.err : "no \"unix:\" address", value);
        return NGX_CONF_ERROR;
    }

    e->addr = u.addrs[0];

    return NGX_CONF_OK;
}


static char *
ngx_http_moe_engine_options(ngx_conf_t *cf, ngx_http_moe_engine_t *e)
{
    ngx_str_t   *value, *option;
    ngx_uint_t   i;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {
        option = ngx_array_push(e->options);
        if (option == NULL) {
            return NGX_CONF_ERROR;
        }

        *option = value[i];
    }

    return NGX_CONF_OK;
}


/* in a worker */


void
ngx_http_moe_engines_start(ngx_cycle_t *cycle)
{
    ngx_uint_t                 i;
    ngx_pool_cleanup_t        *cln;
    ngx_http_moe_engine_t     *e;
    ngx_http_moe_main_conf_t  *mmcf;

    if (ngx_process != NGX_PROCESS_WORKER
        && ngx_process != NGX_PROCESS_SINGLE)
    {
        return;
    }

    mmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_moe_module);
    if (mmcf == NULL) {
        return;
    }

    e = mmcf->engines.elts;

    for (i = 0; i < mmcf->engines.nelts; i++) {

        cln = ngx_pool_cleanup_add(cycle->pool, 0);
        if (cln == NULL) {
            return;
        }

        cln->handler = ngx_http_moe_engine_cleanup;
        cln->data = &e[i];

        e[i].timer.handler = ngx_http_moe_engine_timer;
        e[i].timer.data = &e[i];
        e[i].timer.log = cycle->log;
        e[i].timer.cancelable = 1;

        ngx_add_timer(&e[i].timer, 1);
    }
}


/* without worker processes a reload frees the old configuration */

static void
ngx_http_moe_engine_cleanup(void *data)
{
    ngx_http_moe_engine_t *e = data;

    if (e->timer.timer_set) {
        ngx_del_timer(&e->timer);
    }
}


/* a lane that stands says that all is well; else the lock may be free */

static void
ngx_http_moe_engine_timer(ngx_event_t *ev)
{
    ngx_http_moe_engine_t  *e;

    e = ev->data;

    if (ngx_exiting) {
        return;
    }

    ngx_add_timer(ev, NGX_HTTP_MOE_ENGINE_CHECK);

    if (e->lane == NULL) {
        e->lane = ngx_http_moe_lane_get(e->addr.sockaddr, e->addr.socklen,
                                        &e->addr.name, 1000);
        if (e->lane == NULL) {
            return;
        }

        e->lane->keep = 1;
        e->lane->quiet = 1;
    }

    if (e->lane->state == NGX_HTTP_MOE_LANE_UP) {
        return;
    }

    ngx_http_moe_engine_start(e);

    /* it takes a while before it listens */

    if (access((char *) e->addr.name.data + 5, F_OK) == 0) {
        ngx_http_moe_lane_connect(e->lane);
    }
}


static void
ngx_http_moe_engine_start(ngx_http_moe_engine_t *e)
{
    u_char      *name, *p;
    char       **argv;
    ngx_fd_t     lock;
    ngx_pool_t  *pool;

    pool = ngx_create_pool(4096, ngx_cycle->log);
    if (pool == NULL) {
        return;
    }

    name = ngx_pnalloc(pool, e->addr.name.len + sizeof(".lock"));
    if (name == NULL) {
        ngx_destroy_pool(pool);
        return;
    }

    p = ngx_cpymem(name, e->addr.name.data + 5, e->addr.name.len - 5);
    ngx_memcpy(p, ".lock", sizeof(".lock"));

    lock = open((char *) name, O_RDWR|O_CREAT|O_CLOEXEC|O_NOFOLLOW, 0600);

    if (lock == NGX_INVALID_FILE) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno,
                      "moe_engine: " ngx_open_file_n " \"%s\" failed", name);

    } else {

        if (flock(lock, LOCK_EX|LOCK_NB) == 0) {
            argv = ngx_http_moe_engine_argv(e, lock, pool);

            if (argv && ngx_http_moe_engine_fork(e, lock, argv) == NGX_OK) {
                ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                              "moe_engine: started a supervisor for \"%V\"",
                              &e->addr.name);
            }
        }

        (void) close(lock);
    }

    ngx_destroy_pool(pool);
}


static char **
ngx_http_moe_engine_argv(ngx_http_moe_engine_t *e, ngx_fd_t lock,
    ngx_pool_t *pool)
{
    char        **argv;
    u_char       *fd, *grace;
    ngx_str_t    *option;
    ngx_uint_t    i, n;

    argv = ngx_pcalloc(pool, (e->options->nelts + 16) * sizeof(char *));
    fd = ngx_pnalloc(pool, NGX_INT_T_LEN + 1);
    grace = ngx_pnalloc(pool, NGX_INT_T_LEN + 1);

    if (argv == NULL || fd == NULL || grace == NULL) {
        return NULL;
    }

    *ngx_sprintf(fd, "%d", lock) = '\0';
    *ngx_sprintf(grace, "%M", e->grace / 1000) = '\0';

    n = 0;
    argv[n++] = (char *) e->program.data;
    argv[n++] = "supervise";
    argv[n++] = "--lock-fd";
    argv[n++] = (char *) fd;
    argv[n++] = "--socket";
    argv[n++] = (char *) e->addr.name.data + 5;
    argv[n++] = "--grace";
    argv[n++] = (char *) grace;
    argv[n++] = "--";
    argv[n++] = "-m";
    argv[n++] = (char *) e->model.data;

    option = e->options->elts;

    for (i = 0; i < e->options->nelts; i++) {
        argv[n++] = (char *) option[i].data;
    }

    return argv;
}


/*
 * The child between is waited for, and SIGCHLD held meanwhile, so that
 * nginx's own handler has nothing to wonder about.
 */

static ngx_int_t
ngx_http_moe_engine_fork(ngx_http_moe_engine_t *e, ngx_fd_t lock,
    char **argv)
{
    pid_t     pid;
    sigset_t  set, old;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);

    if (sigprocmask(SIG_BLOCK, &set, &old) == -1) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      "moe_engine: sigprocmask() failed");
        return NGX_ERROR;
    }

    pid = fork();

    if (pid == 0) {
        if (setsid() == -1 || fork() != 0) {
            _exit(0);
        }

        ngx_http_moe_engine_exec(e, lock, argv);
        _exit(127);
    }

    if (pid == -1) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      "moe_engine: fork() failed");

    } else {
        while (waitpid(pid, NULL, 0) == -1 && ngx_errno == NGX_EINTR) {
            /* void */
        }
    }

    (void) sigprocmask(SIG_SETMASK, &old, NULL);

    return (pid == -1) ? NGX_ERROR : NGX_OK;
}


/* from first on, but not last; at once where the kernel can: the limit of
 * descriptors may be a thousand million */

static void
ngx_http_moe_engine_close(ngx_fd_t first, ngx_fd_t last)
{
    ngx_fd_t  max;

    if (first >= last) {
        return;
    }

#ifdef SYS_close_range
    if (syscall(SYS_close_range, (unsigned) first, (unsigned) last - 1, 0)
        == 0)
    {
        return;
    }
#endif

    max = (ngx_fd_t) sysconf(_SC_OPEN_MAX);

    for ( /* void */ ; first < last && first < max; first++) {
        (void) close(first);
    }
}


/* in the grandchild: nothing of nginx's is left but the lock and the log */

static void
ngx_http_moe_engine_exec(ngx_http_moe_engine_t *e, ngx_fd_t lock,
    char **argv)
{
    int               i;
    ngx_fd_t          fd;
    sigset_t          set;
    struct sigaction  sa;

    ngx_memzero(&sa, sizeof(struct sigaction));
    sa.sa_handler = SIG_DFL;

    for (i = 1; i < NSIG; i++) {
        (void) sigaction(i, &sa, NULL);
    }

    sigemptyset(&set);
    (void) sigprocmask(SIG_SETMASK, &set, NULL);

    if (e->log.len) {
        fd = open((char *) e->log.data, O_WRONLY|O_CREAT|O_APPEND, 0644);

        if (fd != -1) {
            (void) dup2(fd, STDERR_FILENO);
        }

    } else if (ngx_cycle->log->file
               && ngx_cycle->log->file->fd != NGX_INVALID_FILE)
    {
        (void) dup2(ngx_cycle->log->file->fd, STDERR_FILENO);
    }

    fd = open("/dev/null", O_RDWR);

    if (fd != -1) {
        (void) dup2(fd, STDIN_FILENO);
        (void) dup2(fd, STDOUT_FILENO);
    }

    ngx_http_moe_engine_close(STDERR_FILENO + 1, lock);
    ngx_http_moe_engine_close(lock + 1, NGX_MAX_INT32_VALUE);

    if (fcntl(lock, F_SETFD, 0) != -1) {
        (void) execvp(argv[0], argv);
    }
}
