#include "report/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/paths.h"

#define FORMAT(name) extern const struct sq_report sq_report_##name;
#include "report/formats.def"
#undef FORMAT

static const struct sq_report *const formats[] = {
#define FORMAT(name) &sq_report_##name,
#include "report/formats.def"
#undef FORMAT
};

size_t sq_reports(const struct sq_report *const **out)
{
    *out = formats;
    return SQ_COUNT(formats);
}

const struct sq_report *sq_report_find(const char *name)
{
    for (size_t i = 0; i < SQ_COUNT(formats); i++)
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

static int make_folders(const char *path, struct sq_err *e)
{
    cleanup_free char *p = strdup(path);

    if (!p)
        return sq_err(e, -ENOMEM, "out of memory");
    for (char *s = strchr(p + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = '\0';
        if (mkdir(p, 0777) < 0 && errno != EEXIST)
            return sq_err_sys(e, -errno, "cannot make the folder %s", p);
        *s = '/';
    }
    return 0;
}

int sq_report_to(const struct sq_report *r, const char *path, const struct sq_report_in *in, struct sq_err *e)
{
    char tmp[4096];
    FILE *f;
    int ret;

    if (strcmp(path, "-") == 0) {
        ret = r->write(stdout, in, e);
        return ret == 0 && fflush(stdout) != 0 ? sq_err_sys(e, -errno, "cannot write the report") : ret;
    }
    if (snprintf(tmp, sizeof tmp, "%s.tmp", path) >= (int)sizeof tmp)
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the report's path is too long");
    ret = make_folders(path, e);
    if (ret < 0)
        return ret;
    f = fopen(tmp, "we");
    if (!f)
        return sq_err_sys(e, -errno, "cannot write %s", tmp);
    ret = r->write(f, in, e);
    if ((ferror(f) | fclose(f)) != 0 && ret == 0)
        ret = sq_err_sys(e, errno ? -errno : -EIO, "cannot write %s", tmp);
    if (ret == 0 && rename(tmp, path) < 0)
        ret = sq_err_sys(e, -errno, "cannot write %s", path);
    if (ret < 0)
        (void)unlink(tmp);
    return ret;
}

int sq_report_all(const char *dir, const struct sq_report_in *in, struct sq_err *e)
{
    char path[4096];

    for (size_t i = 0; i < SQ_COUNT(formats); i++) {
        int r;

        if (!formats[i]->file)
            continue;
        r = sq_path_join(path, sizeof path, dir, formats[i]->file, e);
        if (r == 0)
            r = sq_report_to(formats[i], path, in, e);
        if (r < 0)
            return r;
    }
    return 0;
}
