/* Finds cuBLASLt and cuDNN at run time; see libs.h.
 *
 * Places, in order: the loader's own (LD_LIBRARY_PATH, ld.so.cache); beside the program and the plug-in; the CUDA
 * toolkit's folders and the distribution's; Python installations, whose NVIDIA packages (nvidia-cublas,
 * nvidia-cudnn-cu13, what PyTorch brings) keep each library in nvidia/NAME/lib. The current folder is not among them:
 * a program must not run code from wherever it happens to stand.
 *
 * cuDNN opens its parts (libcudnn_graph.so.9, ...) by plain names; all its builds carry a run path of their own folder,
 * so they are found where the main library is. NVRTC, which compiles its attention kernels, and cuBLASLt may lie
 * elsewhere: they are opened globally before cuDNN asks for them, for the loader takes what is open under a name.
 */
#include "device/cuda/libs.h"

#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#if CUDART_VERSION >= 14000
#define CUDA_MAJOR 14
#elif CUDART_VERSION >= 13000
#define CUDA_MAJOR 13
#else
#define CUDA_MAJOR 12
#endif

enum { PATH_SIZE = 1024, WHY_SIZE = 640 };

typedef struct Library {
    const char *name, *symbol; /* which it must have */
    const char *get;           /* how a user comes by it */
    bool tried;
    void *handle;
    char path[PATH_SIZE], why[WHY_SIZE];
} Library;

static Library cublaslt = {"libcublasLt.so." TEXT(CUDA_MAJOR), "cublasLtMatmul",
                           "the CUDA toolkit has it, and so has `pip install nvidia-cublas"
#if CUDA_MAJOR < 13
                           "-cu" TEXT(CUDA_MAJOR)
#endif
                           "`",
                           false, NULL, "", ""};
static Library cudnn = {"libcudnn.so.9", "cudnnBackendExecute",
                        "install libcudnn9-cuda-" TEXT(CUDA_MAJOR) " from NVIDIA's package repository, or `pip install "
                        "nvidia-cudnn-cu" TEXT(CUDA_MAJOR) "`",
                        false, NULL, "", ""};
static Library nvrtc = {"libnvrtc.so." TEXT(CUDA_MAJOR), "nvrtcCompileProgram", "the CUDA toolkit has it",
                        false, NULL, "", ""};

/* Patterns of folders; ~ is the user's home. */
static const char *const folders[] = {
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-" TEXT(CUDA_MAJOR) "*/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/python3*/site-packages/nvidia/*/lib",
    "/usr/lib/python3*/dist-packages/nvidia/*/lib",
    "/usr/local/lib/python3*/site-packages/nvidia/*/lib",
    "/usr/local/lib/python3*/dist-packages/nvidia/*/lib",
    "~/.local/lib/python3*/site-packages/nvidia/*/lib",
    "/opt/*/lib/python3*/site-packages/nvidia/*/lib",
    "/opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib",
    "/opt/*/*/lib/python3*/site-packages/nvidia/*/lib", /* conda environments */
    "~/*venv*/lib/python3*/site-packages/nvidia/*/lib",
    "~/.*venv*/lib/python3*/site-packages/nvidia/*/lib",
    "~/*conda*/lib/python3*/site-packages/nvidia/*/lib",
    "~/*/.venv/lib/python3*/site-packages/nvidia/*/lib",
};
#define WHERE                                                                                                          \
    "the loader's path, beside the program, /usr/local/cuda*/lib64, /usr/lib and Python's site-packages/nvidia"

/* Takes the library at `file` when it opens and is what it should be. */
static bool take(Library *l, const char *file) {
    Dl_info info;
    void *handle = dlopen(file, RTLD_NOW | RTLD_GLOBAL);
    void *symbol = handle ? dlsym(handle, l->symbol) : NULL;
    if (!symbol) {
        const char *error = dlerror();
        /* A missing file is the rule; a file that does not open is worth telling. */
        if (!l->why[0] && error && strchr(file, '/') && access(file, F_OK) == 0)
            snprintf(l->why, sizeof l->why, "%s was found but does not load: %.500s", l->name, error);
        if (handle) dlclose(handle);
        return false;
    }
    const char *path = dladdr(symbol, &info) && info.dli_fname ? info.dli_fname : file;
    snprintf(l->path, sizeof l->path, "%s", path);
    l->handle = handle;
    return true;
}

static bool take_in(Library *l, const char *folder) {
    char file[PATH_SIZE];
    int n = snprintf(file, sizeof file, "%s/%s", folder, l->name);
    return n < (int)sizeof file && access(file, F_OK) == 0 && take(l, file);
}

static bool take_beside(Library *l, char *file) {
    char *slash = strrchr(file, '/');
    if (!slash) return false;
    *slash = 0;
    return take_in(l, file);
}

static bool take_beside_program(Library *l) {
    char file[PATH_SIZE];
    ssize_t n = readlink("/proc/self/exe", file, sizeof file - 1);
    if (n <= 0) return false;
    file[n] = 0;
    return take_beside(l, file);
}

static bool take_beside_plugin(Library *l) {
    Dl_info info;
    char file[PATH_SIZE];
    if (!dladdr((const void *)&take_beside, &info) || !info.dli_fname) return false;
    snprintf(file, sizeof file, "%s", info.dli_fname);
    return take_beside(l, file);
}

static bool take_matching(Library *l, const char *pattern) {
    char full[PATH_SIZE];
    int n = snprintf(full, sizeof full, "%s/%s", pattern, l->name);
    if (pattern[0] == '~') {
        char buffer[4096];
        struct passwd entry, *user = NULL;
        if (getpwuid_r(getuid(), &entry, buffer, sizeof buffer, &user) || !user || !user->pw_dir) return false;
        n = snprintf(full, sizeof full, "%s%s/%s", user->pw_dir, pattern + 1, l->name);
    }
    glob_t found;
    bool taken = false;
    if (n >= (int)sizeof full) return false;
    if (glob(full, 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc && !taken; i++) taken = take(l, found.gl_pathv[i]);
    globfree(&found);
    return taken;
}

static void find(Library *l) {
    if (l->tried) return;
    l->tried = true;
    if (take(l, l->name) || take_beside_program(l) || take_beside_plugin(l)) return;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (take_matching(l, folders[i])) return;
    if (!l->why[0]) snprintf(l->why, sizeof l->why, "%s was not found (" WHERE "); %s", l->name, l->get);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *found(const Library *l, const char **path, const char **why) {
    *path = l->handle ? l->path : NULL;
    *why = l->handle ? NULL : l->why;
    return l->handle;
}

void *cuda_library_cublaslt(const char **path, const char **why) {
    pthread_mutex_lock(&lock);
    find(&cublaslt);
    pthread_mutex_unlock(&lock);
    return found(&cublaslt, path, why);
}

void *cuda_library_cudnn(const char **path, const char **why) {
    pthread_mutex_lock(&lock);
    find(&cublaslt);
    find(&cudnn);
    /* Python's packages carry the NVRTC that belongs to them, and their run paths lead there. Without one cuDNN loads
     * all the same, and says itself what it cannot do. */
    if (cudnn.handle && !strstr(cudnn.path, "/nvidia/cudnn/")) find(&nvrtc);
    pthread_mutex_unlock(&lock);
    return found(&cudnn, path, why);
}
