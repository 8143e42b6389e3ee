/*
 * The reference for iflab's data path: a C program that carries whatever comes
 * out of one TAP into the other, both ways, and does nothing else.
 *
 *     cloop FD FD [FD FD ...]
 *
 * Each pair of file descriptors is one cable. They are non-blocking and were
 * opened, configured and brought up by whoever starts it; a frame moves with its
 * virtio-net header. It ends when it is killed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BUDGET = 64, SIZE = 65536 + 64 };

int main(int argc, char **argv)
{
	static char buffer[SIZE];
	int count = argc - 1, fds[256];
	struct epoll_event event, events[64];
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (count < 2 || count % 2 || count > 256 || epoll < 0) {
		fprintf(stderr, "usage: cloop FD FD [FD FD ...]\n");
		return 2;
	}
	for (int i = 0; i < count; i++) {
		fds[i] = atoi(argv[i + 1]);
		event.events = EPOLLIN;
		event.data.u32 = i;
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) < 0) {
			perror("epoll_ctl");
			return 1;
		}
	}
	for (;;) {
		int ready = epoll_wait(epoll, events, 64, -1);
		for (int i = 0; i < ready; i++) {
			int side = events[i].data.u32;
			for (int n = 0; n < BUDGET; n++) {
				ssize_t length = read(fds[side], buffer, SIZE);
				if (length < 0)
					break;
				if (write(fds[side ^ 1], buffer, length) < 0 &&
				    errno != EIO && errno != EAGAIN && errno != EINVAL)
					return 1;
			}
		}
	}
}
