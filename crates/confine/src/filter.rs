//! The static seccomp filter of both interceptors: what no program needs under a network shield and what would go
//! round it. `docs/reference/network-shield.md`, "Static filter", is the table for users.
//!
//! It refuses by errno what programs probe for, so that they fall back, and kills only what cannot be looked at:
//! system calls of a foreign architecture (`int 0x80`, x32), whose numbers mean something else.

use libc::sock_filter;

use crate::bpf::{
    Block, allow, architecture, argument, kill, mask, number, refuse, unless_equal, when_any,
    when_equal,
};

#[cfg(target_arch = "x86_64")]
pub(crate) const NATIVE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64, linux/audit.h
#[cfg(target_arch = "aarch64")]
pub(crate) const NATIVE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// Bit that marks a number of the x32 table (`__X32_SYSCALL_BIT`); same `AUDIT_ARCH` as x86-64.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

const SOCK_TYPE_MASK: u32 = 0xf; // linux/net.h
const TCP_FASTOPEN_CONNECT: u32 = 30; // linux/tcp.h
const TCP_ULP: u32 = 31;

/// The instructions, for `SECCOMP_SET_MODE_FILTER`. The same for every program.
#[must_use]
pub fn program() -> Vec<sock_filter> {
    let mut whole = architecture();
    whole.extend(unless_equal(NATIVE, kill()));
    whole.extend(number());
    #[cfg(target_arch = "x86_64")]
    whole.extend(crate::bpf::when_at_least(X32_BIT, kill()));
    let rules = sockets()
        .into_iter()
        .chain(sending())
        .chain(ways_round())
        .chain(namespaces());
    for (call, rule) in rules {
        whole.extend(when_equal(bits(call), rule));
    }
    whole.extend(allow());
    whole
}

fn sockets() -> [(i64, Block); 3] {
    [
        (libc::SYS_socket, socket()),
        (
            libc::SYS_socketpair,
            [
                argument(0),
                when_equal(int(libc::AF_UNIX), allow()),
                refuse(libc::EOPNOTSUPP),
            ]
            .concat(),
        ),
        (libc::SYS_setsockopt, set_option()),
    ]
}

fn socket() -> Block {
    [
        argument(0),
        when_equal(int(libc::AF_UNIX), allow()),
        when_equal(
            int(libc::AF_NETLINK),
            only_protocols(&[libc::NETLINK_ROUTE]),
        ),
        when_equal(int(libc::AF_INET), stream()),
        when_equal(int(libc::AF_INET6), stream()),
        refuse(libc::EAFNOSUPPORT), // AF_VSOCK, AF_PACKET, AF_XDP, AF_SMC, AF_RDS, AF_TIPC, AF_ALG, …
    ]
    .concat()
}

/// TCP only; MPTCP (262), SCTP, SMC (256), DCCP have protocol numbers of their own.
fn stream() -> Block {
    [
        argument(1),
        mask(SOCK_TYPE_MASK),
        when_equal(
            int(libc::SOCK_STREAM),
            only_protocols(&[libc::IPPROTO_IP, libc::IPPROTO_TCP]),
        ),
        when_equal(int(libc::SOCK_DGRAM), refuse(libc::EACCES)),
        refuse(libc::EPERM), // raw, and SOCK_PACKET, which the kernel would turn into AF_PACKET
    ]
    .concat()
}

fn only_protocols(allowed: &[i32]) -> Block {
    let mut block = argument(2);
    for &one in allowed {
        block.extend(when_equal(int(one), allow()));
    }
    block.extend(refuse(libc::EPROTONOSUPPORT));
    block
}

/// Options that would let data leave with the SYN, or hand the stream to another protocol in the kernel.
fn set_option() -> Block {
    let tcp = [
        argument(2),
        when_equal(TCP_FASTOPEN_CONNECT, refuse(libc::ENOPROTOOPT)),
        when_equal(TCP_ULP, refuse(libc::ENOPROTOOPT)),
        allow(),
    ];
    [
        argument(1),
        when_equal(int(libc::IPPROTO_TCP), tcp.concat()),
        allow(),
    ]
    .concat()
}

/// `MSG_FASTOPEN` connects: an interceptor that looks at `connect` would not see it.
fn sending() -> [(i64, Block); 3] {
    let flags_in = |index| {
        [
            argument(index),
            when_any(int(libc::MSG_FASTOPEN), refuse(libc::EOPNOTSUPP)),
            allow(),
        ]
        .concat()
    };
    [
        (libc::SYS_sendmsg, flags_in(2)),
        (libc::SYS_sendto, flags_in(3)),
        (libc::SYS_sendmmsg, flags_in(3)),
    ]
}

/// Other doors to sockets: `io_uring` connects without system calls, the rest reaches into other processes.
fn ways_round() -> [(i64, Block); 7] {
    [
        (libc::SYS_io_uring_setup, refuse(libc::ENOSYS)),
        (libc::SYS_io_uring_enter, refuse(libc::ENOSYS)),
        (libc::SYS_io_uring_register, refuse(libc::ENOSYS)),
        (libc::SYS_ptrace, refuse(libc::EPERM)),
        (libc::SYS_process_vm_writev, refuse(libc::EPERM)),
        (libc::SYS_pidfd_getfd, refuse(libc::EPERM)),
        (libc::SYS_bpf, refuse(libc::EPERM)),
    ]
}

/// No other network, and no user namespace, in which the program would have all capabilities again.
fn namespaces() -> [(i64, Block); 4] {
    let flags_in_first = || {
        [
            argument(0),
            when_any(
                int(libc::CLONE_NEWNET | libc::CLONE_NEWUSER),
                refuse(libc::EPERM),
            ),
            allow(),
        ]
        .concat()
    };
    [
        (libc::SYS_setns, refuse(libc::EPERM)),
        (libc::SYS_unshare, flags_in_first()),
        (libc::SYS_clone, flags_in_first()),
        (libc::SYS_clone3, refuse(libc::ENOSYS)), // its flags are in memory; C libraries fall back to clone
    ]
}

fn int(value: i32) -> u32 {
    value.cast_unsigned()
}

/// System call numbers are small and not negative.
pub(crate) fn bits(call: i64) -> u32 {
    u32::try_from(call).expect("a system call number fits 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::decide;

    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

    fn native(call: i64, args: &[i64]) -> u32 {
        let mut all = [0_u64; 6];
        for (slot, arg) in all.iter_mut().zip(args) {
            *slot = arg.cast_unsigned();
        }
        decide(&program(), bits(call), NATIVE, all)
    }

    fn errno(number: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
    }

    fn socket(domain: i32, kind: i32, protocol: i32) -> u32 {
        native(
            libc::SYS_socket,
            &[domain.into(), kind.into(), protocol.into()],
        )
    }

    #[test]
    fn foreign_architectures_are_killed() {
        assert_eq!(decide(&program(), 102, I386, [0; 6]), KILL); // socketcall through int 0x80
        assert_eq!(decide(&program(), 0, I386, [0; 6]), KILL);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn x32_numbers_are_killed() {
        let socket = bits(libc::SYS_socket);
        assert_eq!(decide(&program(), X32_BIT | socket, NATIVE, [0; 6]), KILL);
        assert_eq!(decide(&program(), u32::MAX, NATIVE, [0; 6]), KILL);
    }

    #[test]
    fn tcp_unix_and_route_sockets_are_allowed() {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        for domain in [libc::AF_INET, libc::AF_INET6] {
            assert_eq!(socket(domain, libc::SOCK_STREAM, 0), ALLOW);
            assert_eq!(
                socket(domain, libc::SOCK_STREAM | flags, libc::IPPROTO_TCP),
                ALLOW
            );
        }
        assert_eq!(socket(libc::AF_UNIX, libc::SOCK_DGRAM | flags, 0), ALLOW);
        assert_eq!(
            socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
            ALLOW
        );
    }

    #[test]
    fn other_transports_are_refused_by_their_errno() {
        for domain in [libc::AF_INET, libc::AF_INET6] {
            assert_eq!(socket(domain, libc::SOCK_DGRAM, 0), errno(libc::EACCES));
            assert_eq!(socket(domain, libc::SOCK_RAW, 6), errno(libc::EPERM));
            assert_eq!(socket(domain, 10, 0), errno(libc::EPERM)); // SOCK_PACKET
            for protocol in [libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP, 33, 256] {
                assert_eq!(
                    socket(domain, libc::SOCK_STREAM, protocol),
                    errno(libc::EPROTONOSUPPORT)
                );
            }
        }
        for domain in [libc::AF_VSOCK, libc::AF_PACKET, libc::AF_ALG, 44, 43, 21, 0] {
            assert_eq!(
                socket(domain, libc::SOCK_STREAM, 0),
                errno(libc::EAFNOSUPPORT)
            );
        }
        assert_eq!(socket(16, libc::SOCK_RAW, 4), errno(libc::EPROTONOSUPPORT)); // NETLINK_SOCK_DIAG
        assert_eq!(
            native(libc::SYS_socketpair, &[libc::AF_INET.into(), 1, 0]),
            errno(libc::EOPNOTSUPP)
        );
        assert_eq!(native(libc::SYS_socketpair, &[1, 1, 0]), ALLOW);
    }

    #[test]
    fn upper_halves_of_int_arguments_do_not_hide_them() {
        let high = 1_i64 << 32;
        let vsock = high | i64::from(libc::AF_VSOCK);
        assert_eq!(
            native(libc::SYS_socket, &[vsock, 1, 0]),
            errno(libc::EAFNOSUPPORT)
        );
        let mptcp = high | i64::from(libc::IPPROTO_MPTCP);
        assert_eq!(
            native(libc::SYS_socket, &[2, 1, mptcp]),
            errno(libc::EPROTONOSUPPORT)
        );
    }

    #[test]
    fn fast_open_is_refused_and_other_flags_are_not() {
        let (fast, quiet) = (
            i64::from(libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL),
            i64::from(libc::MSG_NOSIGNAL),
        );
        for (call, index) in [
            (libc::SYS_sendto, 3),
            (libc::SYS_sendmsg, 2),
            (libc::SYS_sendmmsg, 3),
        ] {
            let with = |flags| {
                let mut args = [0_i64; 6];
                args[index] = flags;
                native(call, &args)
            };
            assert_eq!(with(fast), errno(libc::EOPNOTSUPP));
            assert_eq!(with(quiet), ALLOW);
        }
        for option in [TCP_FASTOPEN_CONNECT, TCP_ULP] {
            assert_eq!(
                native(libc::SYS_setsockopt, &[3, 6, option.into()]),
                errno(libc::ENOPROTOOPT)
            );
        }
        assert_eq!(
            native(libc::SYS_setsockopt, &[3, 6, libc::TCP_NODELAY.into()]),
            ALLOW
        );
        assert_eq!(native(libc::SYS_setsockopt, &[3, 1, 30]), ALLOW);
    }

    #[test]
    fn new_namespaces_are_refused_and_threads_are_not() {
        for call in [libc::SYS_unshare, libc::SYS_clone] {
            for flag in [libc::CLONE_NEWNET, libc::CLONE_NEWUSER] {
                assert_eq!(
                    native(call, &[(flag | libc::SIGCHLD).into()]),
                    errno(libc::EPERM)
                );
            }
        }
        let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_FILES;
        assert_eq!(native(libc::SYS_clone, &[thread.into()]), ALLOW);
        assert_eq!(native(libc::SYS_clone3, &[0]), errno(libc::ENOSYS));
        assert_eq!(native(libc::SYS_setns, &[3, 0]), errno(libc::EPERM));
    }

    #[test]
    fn doors_to_other_processes_and_rings_are_shut() {
        assert_eq!(native(libc::SYS_io_uring_setup, &[]), errno(libc::ENOSYS));
        for call in [
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_bpf,
        ] {
            assert_eq!(native(call, &[]), errno(libc::EPERM));
        }
        assert_eq!(native(libc::SYS_connect, &[]), ALLOW);
        assert_eq!(native(libc::SYS_read, &[]), ALLOW);
    }
}
