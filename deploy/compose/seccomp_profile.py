"""The seccomp profile of the runner's container: `python seccomp_profile.py > seccomp-runner.json`.
With `--debuggers` one for a runner some of whose projects allow them (ADR 50).

An allow list: whatever is not named gets EPERM. It lets programs, compilers and interpreters work,
and in addition what bwrap needs to make a sandbox as an ordinary user (`SANDBOX`). What a container
must not do stays out: kernel modules, the clock, kexec, swap, keyrings, tracing of other processes,
io_uring, bpf, userfaultfd, joining namespaces, the new mount API, 32-bit programs. bwrap's own
filter, which is tighter, lies over this one for all that an agent runs (sandbox/seccomp.py).
Standard library only.
"""

import json
import socket
import sys

ENOSYS = 38

# By what they are for, so that an addition has to say why.
ALLOWED = {
    "files": """
        access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3
        faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown
        fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat
        fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr
        inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown lgetxattr link
        linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod
        mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev
        pwritev2 read readahead readlink readlinkat readv removexattr rename renameat
        renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat sync
        sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes
        vmsplice write writev cachestat ioctl
    """,
    "memory": """
        brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect
        mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
        process_madvise map_shadow_stack mseal
    """,
    "processes and threads": """
        alarm arch_prctl capget capset clone execve execveat exit exit_group fork futex
        futex_waitv futex_wake futex_wait futex_requeue get_robust_list getcpu getegid
        geteuid getgid getgroups getitimer getpgid getpgrp getpid getpriority getresgid
        getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill
        modify_ldt nice personality pidfd_open pidfd_send_signal prctl prlimit64
        restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity
        sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
        sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
        set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid
        setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid sysinfo
        tgkill times tkill uname vfork wait4 waitid
    """,
    "signals, time, waiting": """
        clock_getres clock_gettime clock_gettime64 clock_nanosleep epoll_create
        epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
        gettimeofday nanosleep pause poll ppoll pselect6 rt_sigaction rt_sigpending
        rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_tgsigqueueinfo select sigaltstack signalfd signalfd4 time timer_create
        timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
        timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
        timerfd_settime64
    """,
    "pipes, sockets, messages": """
        accept accept4 bind connect getpeername getrandom getsockname getsockopt listen
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget
        msgrcv msgsnd pipe pipe2 recv recvfrom recvmmsg recvmsg semctl semget semop
        semtimedop send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget
        shutdown socketpair
    """,
    "seccomp and Landlock": """
        seccomp landlock_add_rule landlock_create_ruleset landlock_restrict_self
    """,
}

# The additions to what a container may do by default. All of them act in a user namespace of the
# caller's own; none gives anything outside of it.
SANDBOX = "chroot mount pivot_root sethostname umount2 unshare"

# Refused again by the sandbox's own filter, but where the project allows them.
DEBUGGERS = "process_vm_readv process_vm_writev ptrace"

# libc falls back to clone, whose flags bwrap's filter can see.
NOT_THERE = "clone3"


def profile(*, debuggers: bool = False) -> dict[str, object]:
    names = sorted({name for group in ALLOWED.values() for name in group.split()})
    allow = "SCMP_ACT_ALLOW"
    # A virtual socket crosses network namespaces (fact 3 of SECURITY): never one of those.
    family = {"index": 0, "value": int(socket.AF_VSOCK), "op": "SCMP_CMP_NE"}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": names, "action": allow},
            {"names": SANDBOX.split(), "action": allow},
            {"names": ["socket"], "action": allow, "args": [family]},
            {"names": NOT_THERE.split(), "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
            *([{"names": DEBUGGERS.split(), "action": allow}] if debuggers else []),
        ],
    }


if __name__ == "__main__":
    json.dump(profile(debuggers="--debuggers" in sys.argv[1:]), sys.stdout, indent=1)
    print()
