//! Docker's default profile as a table. The names and conditions are those of
//! moby's `profiles/seccomp` (`default_linux.go`, 2025); key management stays
//! refused, since keyrings are not separated between containers here.

/// A rule without arguments: the system calls that processes with any of
/// `caps` may use (`""`: all processes).
pub(super) struct Group {
    /// The capability that opens it.
    pub cap: &'static str,
    /// System calls, separated by blanks.
    pub names: &'static str,
}

/// Allowed to every process.
pub(super) const ALWAYS: &str = "\
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 \
dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 \
fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat \
fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 \
fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 \
futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 \
geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp \
getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit \
get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday \
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 \
inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset \
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr \
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise \
map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock \
mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive \
mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget \
msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect \
open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free \
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease \
pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv \
recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename \
renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask \
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max \
sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select \
semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto \
setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 \
setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 \
setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 \
sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx \
symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete \
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate \
truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 \
utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Allowed from this kernel on: before it, ptrace could get past seccomp.
pub(super) const PTRACE: &str = "process_vm_readv process_vm_writev ptrace";
/// The kernel of [`PTRACE`].
pub(super) const PTRACE_KERNEL: (u32, u32) = (4, 8);

/// Allowed on some architectures (Go's names for them).
pub(super) const BY_ARCH: &[(&[&str], &str)] = &[
    (&["ppc64le"], "sync_file_range2 swapcontext"),
    (
        &["arm", "arm64"],
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (&["amd64"], "arch_prctl modify_ldt"),
    (&["s390x"], "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (&["riscv64"], "riscv_flush_icache riscv_hwprobe"),
];

/// Allowed to processes with a capability.
pub(super) const BY_CAP: &[Group] = &[
    Group { cap: "CAP_DAC_READ_SEARCH", names: "open_by_handle_at" },
    Group {
        cap: "CAP_SYS_ADMIN",
        names: "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree \
perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    },
    Group { cap: "CAP_SYS_BOOT", names: "reboot" },
    Group { cap: "CAP_SYS_CHROOT", names: "chroot" },
    Group { cap: "CAP_SYS_MODULE", names: "delete_module init_module finit_module" },
    Group { cap: "CAP_SYS_PACCT", names: "acct" },
    Group {
        cap: "CAP_SYS_PTRACE",
        names: "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    },
    Group { cap: "CAP_SYS_RAWIO", names: "iopl ioperm" },
    Group { cap: "CAP_SYS_TIME", names: "settimeofday stime clock_settime clock_settime64" },
    Group { cap: "CAP_SYS_TTY_CONFIG", names: "vhangup" },
    Group {
        cap: "CAP_SYS_NICE",
        names: "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    },
    Group { cap: "CAP_SYSLOG", names: "syslog" },
    Group { cap: "CAP_BPF", names: "bpf" },
    Group { cap: "CAP_PERFMON", names: "perf_event_open" },
];

/// System calls that no capability opens. Together with what [`BY_CAP`] did
/// not open they are refused with EPERM.
pub(super) const NEVER: &str = "\
_sysctl add_key afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle \
io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl lock migrate_pages \
move_pages mpx nfsservctl nice oldfstat oldlstat oldolduname oldstat olduname pivot_root prof \
profil putpmsg query_module request_key rtas security sgetmask sigaction signal sigpending \
sigsuspend ssetmask stty swapoff swapon sysfs tuxcall ulimit userfaultfd ustat vm86 vm86old vserver";

/// The values of `personality` that are allowed.
pub(super) const PERSONALITIES: &[u64] = &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The flags of `clone` that make namespaces, `CLONE_NEWCGROUP` to `CLONE_NEWNET`.
pub(super) const CLONE_NAMESPACES: [u64; 7] = [
    0x0002_0000, // mount
    0x0200_0000, // cgroup
    0x0400_0000, // uts
    0x0800_0000, // ipc
    0x1000_0000, // user
    0x2000_0000, // pid
    0x4000_0000, // net
];

/// The address family that is refused: a socket of it reaches the hypervisor.
pub(super) const AF_VSOCK: u64 = 40;
