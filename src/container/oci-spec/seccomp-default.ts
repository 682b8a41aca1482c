import type { OciSeccomp, OciSeccompRule } from './spec-types.ts';

/** What ordinary programs call, by man-pages(2). Names that a kernel or libseccomp does not know are skipped by the runtimes. */
const ALLOWED = `
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres
clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group
faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue
futex_time64 futex_wait futex_waitv futex_wake futimesat get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen
listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create
memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect
poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead
readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_mempolicy set_robust_list set_thread_area set_tid_address setfsgid
setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack
signalfd signalfd4 sigprocmask sigreturn socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range
syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe
utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
arch_prctl modify_ldt arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls riscv_flush_icache
process_vm_readv process_vm_writev ptrace`;

/** Calls that a capability makes harmless to allow: the kernel asks for it anyway. */
const BY_CAPABILITY: ReadonlyArray<readonly [string, string]> = [
  ['CAP_DAC_READ_SEARCH', 'open_by_handle_at'],
  [
    'CAP_SYS_ADMIN',
    'bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare',
  ],
  ['CAP_SYS_BOOT', 'reboot'],
  ['CAP_SYS_CHROOT', 'chroot'],
  ['CAP_SYS_MODULE', 'delete_module finit_module init_module'],
  ['CAP_SYS_PACCT', 'acct'],
  ['CAP_SYS_PTRACE', 'kcmp pidfd_getfd process_madvise'],
  ['CAP_SYS_RAWIO', 'ioperm iopl'],
  ['CAP_SYS_TIME', 'clock_settime clock_settime64 settimeofday stime'],
  ['CAP_SYS_TTY_CONFIG', 'vhangup'],
  ['CAP_SYS_NICE', 'mbind migrate_pages move_pages set_mempolicy_home_node'],
  ['CAP_SYSLOG', 'syslog'],
  ['CAP_BPF', 'bpf'],
  ['CAP_PERFMON', 'perf_event_open'],
];

/** CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET: new namespaces are for CAP_SYS_ADMIN. */
const NAMESPACE_FLAGS = 0x7e020000;
/** Of personality(2): Linux, Linux with 32-bit uname, and "tell me". */
const PERSONALITIES = [0x0, 0x8, 0x20000, 0x20008, 0xffffffff];
/**
 * Address families as [mask, value]: all up to 47 but AF_ALG (38) and AF_VSOCK (40). Masks, because seccomp sees 64 bits of a register of which the kernel takes
 * 32 for the family: "less than" and "greater than" let 0x1_0000_0028 through, which is AF_VSOCK. Rules of one call are alternatives.
 */
const SOCKET_FAMILIES: ReadonlyArray<readonly [number, number]> = [
  [0xffff_ffe0, 0], // 0-31
  [0xffff_fffc, 32], // 32-35
  [0xffff_fffe, 36], // 36, 37
  [0xffff_ffff, 39],
  [0xffff_ffff, 41],
  [0xffff_fffe, 42], // 42, 43
  [0xffff_fffc, 44], // 44-47
];
const EPERM = 1;
const ENOSYS = 38;

const maskedEqual = (mask: number, value: number): NonNullable<OciSeccompRule['args']> => [
  { index: 0, value: mask, valueTwo: value, op: 'SCMP_CMP_MASKED_EQ' },
];

const allow = (names: string, args?: OciSeccompRule['args']): OciSeccompRule => ({
  names: names.trim().split(/\s+/),
  action: 'SCMP_ACT_ALLOW',
  ...(args ? { args } : {}),
});

const ARCHITECTURES: Readonly<Record<string, readonly string[]>> = {
  x64: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
  arm64: ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
};

/**
 * RuntimeDefault for a container with these capabilities: a list of what is allowed, everything else is EPERM. Sockets of AF_ALG and AF_VSOCK are refused (S10);
 * clone3 is ENOSYS without CAP_SYS_ADMIN, so that libc falls back to clone, whose flags can be read. `arch` as in process.arch.
 */
export function defaultSeccomp(capabilities: readonly string[], arch: string = process.arch): OciSeccomp {
  const has = new Set(capabilities);
  const extra = BY_CAPABILITY.filter(([capability]) => has.has(capability)).map(([, names]) => allow(names));
  const isAdmin = has.has('CAP_SYS_ADMIN');
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: EPERM,
    architectures: ARCHITECTURES[arch] ?? [],
    syscalls: [
      allow(ALLOWED),
      ...PERSONALITIES.map((value) => allow('personality', [{ index: 0, value, op: 'SCMP_CMP_EQ' }])),
      // For 32-bit x86 libseccomp turns a rule for socket into one for socketcall that can't see the family. The one that stands first wins, and its errno
      // must not be the default one: runc leaves out rules that only say the default again. Libraries then use socket itself (Linux >= 4.3).
      { names: ['socketcall'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
      ...SOCKET_FAMILIES.map(([mask, value]) => allow('socket', maskedEqual(mask, value))),
      ...(isAdmin
        ? []
        : [allow('clone', maskedEqual(NAMESPACE_FLAGS, 0)), { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS }]),
      ...extra,
    ],
  };
}
