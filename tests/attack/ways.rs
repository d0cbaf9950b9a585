//! The ways: raw system calls of x86-64, without a C library.

use std::arch::asm;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

pub const CANARY: &[u8] = b"SECURETF-CANARY";
pub type Outcome = Result<(), i64>; // Ok: sent; Err: errno

// x86-64 system calls
pub const WRITE: i64 = 1;
pub const CLOSE: i64 = 3;
pub const MMAP: i64 = 9;
pub const DUP2: i64 = 33;
pub const SOCKET: i64 = 41;
pub const CONNECT: i64 = 42;
pub const SENDTO: i64 = 44;
pub const SENDMSG: i64 = 46;
pub const BIND: i64 = 49;
pub const LISTEN: i64 = 50;
pub const SETSOCKOPT: i64 = 54;
pub const CLONE: i64 = 56;
pub const EXIT: i64 = 60;
pub const PTRACE: i64 = 101;
pub const UNSHARE: i64 = 272;
pub const SENDMMSG: i64 = 307;
pub const SETNS: i64 = 308;
pub const BPF: i64 = 321;
pub const URING_SETUP: i64 = 425;
pub const URING_ENTER: i64 = 426;
pub const PIDFD_OPEN: i64 = 434;
pub const PIDFD_GETFD: i64 = 438;

pub const UNIX: i64 = 1;
pub const STREAM: i64 = 1;
pub const DGRAM: i64 = 2;
pub const RAW: i64 = 3;
pub const FASTOPEN: i64 = 0x2000_0000;
pub const NEWUSER: i64 = 0x1000_0000;
pub const NEWNET: i64 = 0x4000_0000;

pub fn call(number: i64, args: [i64; 6]) -> Result<i64, i64> {
    let result: i64;
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1],
            in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _);
    }
    if (-4095..0).contains(&result) {
        Err(-result)
    } else {
        Ok(result)
    }
}

pub fn call3(number: i64, a: i64, b: i64, c: i64) -> Result<i64, i64> {
    call(number, [a, b, c, 0, 0, 0])
}

pub fn socket(domain: i64, kind: i64, protocol: i64) -> Result<i64, i64> {
    call3(SOCKET, domain, kind, protocol)
}

/// `struct sockaddr_in` or `sockaddr_in6`.
pub fn raw(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(v4) => [&[2, 0], &port[..], &v4.ip().octets(), &[0; 8]].concat(),
        SocketAddr::V6(v6) => [&[10, 0], &port[..], &[0; 4], &v6.ip().octets(), &[0; 4]].concat(),
    }
}

pub fn domain(address: SocketAddr) -> i64 {
    if address.is_ipv4() { 2 } else { 10 }
}

pub fn pointer<T>(value: &[T]) -> i64 {
    value.as_ptr() as i64
}

pub fn connect(socket: i64, to: SocketAddr) -> Result<i64, i64> {
    let to = raw(to);
    call3(CONNECT, socket, pointer(&to), to.len() as i64)
}

pub fn send_canary(socket: i64) -> Outcome {
    call3(WRITE, socket, pointer(CANARY), CANARY.len() as i64).map(|_| ())
}

pub fn plain(to: SocketAddr, protocol: i64) -> Outcome {
    let one = socket(domain(to), STREAM, protocol)?;
    connect(one, to)?;
    send_canary(one)
}

pub fn mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        v6 => v6,
    }
}

pub fn fastopen(to: SocketAddr, number: i64) -> Outcome {
    let one = socket(domain(to), STREAM, 0)?;
    let address = raw(to);
    let vector = [pointer(CANARY), CANARY.len() as i64];
    // struct msghdr and msg_len: name, namelen, iov, iovlen, control, controllen, flags
    let message = [
        pointer(&address),
        address.len() as i64,
        pointer(&vector),
        1,
        0,
        0,
        0,
        0,
    ];
    match number {
        SENDTO => call(
            SENDTO,
            [
                one,
                pointer(CANARY),
                CANARY.len() as i64,
                FASTOPEN,
                pointer(&address),
                address.len() as i64,
            ],
        ),
        SENDMSG => call3(SENDMSG, one, pointer(&message), FASTOPEN),
        _ => call(SENDMMSG, [one, pointer(&message), 1, FASTOPEN, 0, 0]),
    }
    .map(|_| ())
}

pub fn option(socket: i64, level: i64, name: i64, value: &[u8]) -> Result<i64, i64> {
    call(
        SETSOCKOPT,
        [socket, level, name, pointer(value), value.len() as i64, 0],
    )
}

pub fn fastopen_connect(to: SocketAddr) -> Outcome {
    let one = socket(domain(to), STREAM, 0)?;
    option(one, 6, 30, &1_u32.to_ne_bytes())?; // TCP_FASTOPEN_CONNECT
    connect(one, to)?;
    send_canary(one)
}

/// A protocol of the kernel on top of a connection to ourselves: only whether it may be set.
pub fn ulp(_: SocketAddr) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    option(i64::from(stream.as_raw_fd()), 6, 31, b"tls\0").map(|_| ())
}

pub fn udp(to: SocketAddr) -> Outcome {
    let one = socket(domain(to), DGRAM, 0)?;
    let address = raw(to);
    call(
        SENDTO,
        [
            one,
            pointer(CANARY),
            CANARY.len() as i64,
            0,
            pointer(&address),
            address.len() as i64,
        ],
    )
    .map(|_| ())
}

/// `socketcall` of the i386 table: arguments below 4 GiB.
pub fn int80(to: SocketAddr) -> Outcome {
    let low = call(MMAP, [0, 4096, 3, 0x62, -1, 0])?; // MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT
    let address = raw(to);
    let at = |offset: usize| (low as usize + offset) as *mut u8;
    unsafe {
        address.as_ptr().copy_to(at(256), address.len());
        CANARY.as_ptr().copy_to(at(512), CANARY.len());
    }
    let socketcall = |which: i64, args: [u32; 4]| -> Result<i64, i64> {
        unsafe { args.as_ptr().copy_to(at(0).cast(), 4) };
        let result: i64;
        unsafe {
            asm!("xchg rbx, {which}", "int 0x80", "xchg rbx, {which}", which = inout(reg) which => _,
                inlateout("rax") 102_i64 => result, in("rcx") low, lateout("r8") _, lateout("r9") _,
                lateout("r10") _, lateout("r11") _);
        }
        let result = i64::from(result as i32);
        if result < 0 { Err(-result) } else { Ok(result) }
    };
    let one = socketcall(1, [domain(to) as u32, 1, 0, 0])? as u32;
    socketcall(3, [one, low as u32 + 256, address.len() as u32, 0])?;
    socketcall(9, [one, low as u32 + 512, CANARY.len() as u32, 0]).map(|_| ())
}

pub fn x32(to: SocketAddr) -> Outcome {
    let one = call3(0x4000_0000 | SOCKET, domain(to), STREAM, 0)?;
    let address = raw(to);
    call3(
        0x4000_0000 | CONNECT,
        one,
        pointer(&address),
        address.len() as i64,
    )?;
    send_canary(one)
}

/// CONNECT and SEND submitted to a ring: no system call names the destination.
pub fn io_uring(to: SocketAddr) -> Outcome {
    let one = socket(domain(to), STREAM, 0)?;
    let mut parameters = [0_u32; 30]; // struct io_uring_params
    let ring = call3(URING_SETUP, 4, parameters.as_mut_ptr() as i64, 0)?;
    let map = |size: i64, offset: i64| call(MMAP, [0, size, 3, 1, ring, offset]); // MAP_SHARED
    let (submit, complete) = (map(4096, 0)?, map(4096, 0x800_0000)?);
    let entries = map(4096, 0x1000_0000)? as *mut u8;
    let address = raw(to);
    for (slot, opcode) in [(0_usize, 16_u8), (1, 26)] {
        let mut entry = [0_u8; 64]; // struct io_uring_sqe
        let (data, length, offset) = if opcode == 16 {
            (pointer(&address), 0_u32, address.len() as u64)
        } else {
            (pointer(CANARY), CANARY.len() as u32, 0)
        };
        entry[0] = opcode;
        entry[1] = if slot == 0 { 4 } else { 0 }; // IOSQE_IO_LINK
        entry[4..8].copy_from_slice(&(one as u32).to_ne_bytes());
        entry[8..16].copy_from_slice(&offset.to_ne_bytes());
        entry[16..24].copy_from_slice(&data.to_ne_bytes());
        entry[24..28].copy_from_slice(&length.to_ne_bytes());
        unsafe { entry.as_ptr().copy_to(entries.add(64 * slot), 64) };
        let array = (submit as usize + parameters[16] as usize) as *mut u32; // sq_off.array
        unsafe { array.add(slot).write_volatile(slot as u32) };
    }
    let tail = (submit as usize + parameters[11] as usize) as *mut u32; // sq_off.tail
    unsafe { tail.write_volatile(2) };
    call(URING_ENTER, [ring, 2, 2, 1, 0, 0])?; // IORING_ENTER_GETEVENTS
    let completions = (complete as usize + parameters[25] as usize) as *const u8; // cq_off.cqes
    let result = |index: usize| unsafe {
        completions
            .add(16 * index + 8)
            .cast::<i32>()
            .read_volatile()
    };
    match result(0) {
        0 if result(1) > 0 => Ok(()),
        0 => Err(i64::from(-result(1))),
        failed => Err(i64::from(-failed)),
    }
}

struct Shared(*mut u8);
unsafe impl Sync for Shared {}

impl Shared {
    fn put(&self, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            unsafe { self.0.add(index).write_volatile(*byte) };
        }
    }
}

/// The address in memory flips between allowed and forbidden while the kernel and an interceptor look at it.
pub fn flip_race(forbidden: SocketAddr, allowed: SocketAddr, count: u32) -> Outcome {
    let (bad, good) = (raw(forbidden), raw(allowed));
    let mut memory = good.clone();
    let (shared, stop) = (Shared(memory.as_mut_ptr()), AtomicBool::new(false));
    let (shared, stop, bad, good) = (&shared, &stop, &bad, &good);
    let mut last = Err(111);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                shared.put(bad);
                shared.put(good);
            }
        });
        for _ in 0..count {
            let one = socket(domain(forbidden), STREAM, 0).unwrap();
            if call3(CONNECT, one, shared.0 as i64, good.len() as i64).is_ok()
                && peer_is(one, forbidden)
            {
                last = send_canary(one);
            }
            let _ = call3(CLOSE, one, 0, 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    last
}

pub fn peer_is(socket: i64, wanted: SocketAddr) -> bool {
    let (mut name, mut length) = ([0_u8; 128], 128_u32);
    let _ = call3(52, socket, name.as_mut_ptr() as i64, &raw mut length as i64); // getpeername
    name.starts_with(&raw(wanted))
}

/// An interceptor that lets AF_UNIX continue must not be tricked by what stands in the descriptor and in memory then.
pub fn swap_race(forbidden: SocketAddr, count: u32) -> Outcome {
    let mut local = vec![1_u8, 0, 0]; // an abstract address of our own
    local.extend(format!("attack-{}", std::process::id()).as_bytes());
    let server = socket(UNIX, STREAM, 0)?;
    call3(BIND, server, pointer(&local), local.len() as i64)?;
    call3(LISTEN, server, 4096, 0)?;
    let mut padded = raw(forbidden);
    padded.resize(local.len().max(padded.len()), 0);
    let mut memory = vec![0_u8; 128];
    let (shared, stop) = (Shared(memory.as_mut_ptr()), AtomicBool::new(false));
    let (shared, stop) = (&shared, &stop);
    let (target, mut sent) = (200_i64, Err(111));
    for _ in 0..count.div_ceil(64) {
        let (good, bad) = (
            socket(UNIX, STREAM, 0)?,
            socket(domain(forbidden), STREAM, 0)?,
        );
        let (local, padded) = (&local, &padded);
        call3(DUP2, good, target, 0)?;
        stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = call3(DUP2, good, target, 0);
                    shared.put(local);
                    let _ = call3(DUP2, bad, target, 0);
                    shared.put(padded);
                }
            });
            for _ in 0..64 {
                let _ = call3(CONNECT, target, shared.0 as i64, padded.len() as i64);
                if peer_is(bad, forbidden) {
                    sent = send_canary(bad);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        for one in [good, bad, target] {
            let _ = call3(CLOSE, one, 0, 0);
        }
    }
    sent
}

pub fn clone_into(flag: i64) -> Outcome {
    let child = call(CLONE, [flag | 17, 0, 0, 0, 0, 0])?; // SIGCHLD
    if child == 0 {
        let _ = call3(EXIT, 0, 0, 0);
    }
    Ok(())
}

pub fn enter_network() -> Outcome {
    let outer = std::fs::File::open("/proc/self/ns/net")
        .map_err(|error| i64::from(error.raw_os_error().unwrap_or(5)))?;
    call3(SETNS, i64::from(outer.as_raw_fd()), NEWNET, 0).map(|_| ())
}

pub fn steal_descriptor() -> Outcome {
    let parent = i64::from(std::os::unix::process::parent_id());
    let handle = call3(PIDFD_OPEN, parent, 0, 0)?;
    call3(PIDFD_GETFD, handle, 0, 0).map(|_| ())
}

/// From an address of our choice: in the namespace every address is local, so that `bind` takes a peer's.
pub fn foreign_source(to: SocketAddr, source: SocketAddr) -> Outcome {
    let one = socket(domain(to), STREAM, 0)?;
    let from = raw(source);
    call3(BIND, one, pointer(&from), from.len() as i64)?;
    connect(one, to)?;
    send_canary(one)
}

/// A server without `SO_REUSEADDR`.
pub fn listen_plainly(port: u16) -> Outcome {
    let one = socket(10, STREAM, 0)?;
    let any = raw(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)));
    call3(BIND, one, pointer(&any), any.len() as i64)?;
    call3(LISTEN, one, 16, 0).map(|_| ())
}
