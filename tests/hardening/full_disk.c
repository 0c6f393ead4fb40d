/* Let writes to files of a folder fail as on a full disk.

Load with LD_PRELOAD. FULL_DISK_FOLDER is the folder; FULL_DISK_CONTROL is a file of three 64-bit numbers that all
processes share: how many writes there were, the first that fails, and the first that succeeds again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int64_t *control;
static const char *folder;

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("FULL_DISK_CONTROL");
	folder = getenv("FULL_DISK_FOLDER");
	if (!path || !folder)
		return;
	int descriptor = open(path, O_RDWR | O_CLOEXEC);
	if (descriptor < 0)
		return;
	void *mapped = mmap(NULL, 3 * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
	if (mapped != MAP_FAILED)
		control = mapped;
	close(descriptor);
}

static int is_full(int descriptor)
{
	char link[64];
	char path[4096];
	struct stat status;

	if (!control || fstat(descriptor, &status) || !S_ISREG(status.st_mode))
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
	ssize_t length = readlink(link, path, sizeof path - 1);
	if (length < 0)
		return 0;
	path[length] = 0;
	if (strncmp(path, folder, strlen(folder)))
		return 0;
	int64_t number = __atomic_fetch_add(control, 1, __ATOMIC_SEQ_CST);
	if (number < control[1] || number >= control[2])
		return 0;
	errno = ENOSPC;
	return 1;
}

#define GUARD(type, name, parameters, arguments, failure) \
	type name parameters \
	{ \
		static type (*real) parameters; \
		if (!real) \
			real = dlsym(RTLD_NEXT, #name); \
		return is_full(descriptor) ? (failure) : real arguments; \
	}

GUARD(ssize_t, write, (int descriptor, const void *data, size_t size), (descriptor, data, size), -1)
GUARD(ssize_t, writev, (int descriptor, const struct iovec *parts, int count), (descriptor, parts, count), -1)
GUARD(ssize_t, pwrite, (int descriptor, const void *data, size_t size, off_t offset), (descriptor, data, size, offset), -1)
GUARD(ssize_t, pwrite64, (int descriptor, const void *data, size_t size, off64_t offset), (descriptor, data, size, offset), -1)
GUARD(ssize_t, pwritev, (int descriptor, const struct iovec *parts, int count, off_t offset), (descriptor, parts, count, offset), -1)
GUARD(ssize_t, pwritev64, (int descriptor, const struct iovec *parts, int count, off64_t offset), (descriptor, parts, count, offset), -1)
GUARD(ssize_t, sendfile, (int descriptor, int from, off_t *offset, size_t size), (descriptor, from, offset, size), -1)
GUARD(ssize_t, sendfile64, (int descriptor, int from, off64_t *offset, size_t size), (descriptor, from, offset, size), -1)
GUARD(ssize_t, copy_file_range, (int from, off64_t *start_, int descriptor, off64_t *offset, size_t size, unsigned flags), (from, start_, descriptor, offset, size, flags), -1)
GUARD(int, fallocate, (int descriptor, int mode, off_t offset, off_t size), (descriptor, mode, offset, size), -1)
GUARD(int, fallocate64, (int descriptor, int mode, off64_t offset, off64_t size), (descriptor, mode, offset, size), -1)
GUARD(int, posix_fallocate, (int descriptor, off_t offset, off_t size), (descriptor, offset, size), ENOSPC)
GUARD(int, posix_fallocate64, (int descriptor, off64_t offset, off64_t size), (descriptor, offset, size), ENOSPC)
GUARD(int, fsync, (int descriptor), (descriptor), -1)

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream)
{
	static size_t (*real)(const void *, size_t, size_t, FILE *);
	if (!real)
		real = dlsym(RTLD_NEXT, "fwrite");
	return is_full(fileno(stream)) ? 0 : real(data, size, count, stream);
}
