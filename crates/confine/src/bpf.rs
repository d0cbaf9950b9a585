//! Classic BPF as seccomp takes it (`seccomp(2)`, `linux/filter.h`): a few instructions, composed of blocks that
//! always return, so that a jump is never longer than the block it skips.
//!
//! Not `seccompiler`: it keys every rule by one system call number, so that it cannot refuse the x32 numbers as a
//! range, and one filter of it knows one errno.

use libc::sock_filter;

/// Offsets in `struct seccomp_data`, bytes.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

// Codes of `linux/bpf_common.h`; all fit 16 bits.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// A piece of a filter.
pub(crate) type Block = Vec<sock_filter>;

fn plain(code: u16, k: u32) -> Block {
    let (jt, jf) = (0, 0);
    vec![sock_filter { code, jt, jf, k }]
}

/// Loads the number of the system call.
pub(crate) fn number() -> Block {
    plain(LOAD, OFFSET_NR)
}

/// Loads the architecture (`AUDIT_ARCH_…`).
pub(crate) fn architecture() -> Block {
    plain(LOAD, OFFSET_ARCH)
}

/// Loads the low 32 bits of an argument, 0 to 5. The arguments that we look at are `int`s: the kernel ignores the
/// upper half, too. Little endian.
pub(crate) fn argument(index: u32) -> Block {
    plain(LOAD, OFFSET_ARGS + 8 * index)
}

/// Keeps only the bits of `mask`.
pub(crate) fn mask(mask: u32) -> Block {
    plain(AND, mask)
}

/// Lets the call pass.
pub(crate) fn allow() -> Block {
    plain(RETURN, libc::SECCOMP_RET_ALLOW)
}

/// Lets the call fail with `errno`.
pub(crate) fn refuse(errno: i32) -> Block {
    plain(RETURN, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
}

/// Asks the supervisor.
pub(crate) fn notify() -> Block {
    plain(RETURN, libc::SECCOMP_RET_USER_NOTIF)
}

/// Ends the whole process with SIGSYS.
pub(crate) fn kill() -> Block {
    plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS)
}

/// If what is loaded equals `value`, runs `then`, which must return; else goes on behind it.
pub(crate) fn when_equal(value: u32, then: Block) -> Block {
    jump(JUMP_EQUAL, value, true, then)
}

/// If what is loaded is not `value`, runs `then`, which must return.
pub(crate) fn unless_equal(value: u32, then: Block) -> Block {
    jump(JUMP_EQUAL, value, false, then)
}

/// If what is loaded is `value` or more, unsigned, runs `then`, which must return.
#[cfg(target_arch = "x86_64")]
pub(crate) fn when_at_least(value: u32, then: Block) -> Block {
    jump(JUMP_GREATER_EQUAL, value, true, then)
}

/// If what is loaded has any bit of `bits`, runs `then`, which must return.
pub(crate) fn when_any(bits: u32, then: Block) -> Block {
    jump(JUMP_SET, bits, true, then)
}

/// The numbers and comparisons are our own constants: a block that does not fit a jump is our bug.
fn jump(code: u16, k: u32, enters_when: bool, then: Block) -> Block {
    let skip = u8::try_from(then.len()).expect("a block of a filter has at most 255 instructions");
    let (jt, jf) = if enters_when { (0, skip) } else { (skip, 0) };
    let mut block = vec![sock_filter { code, jt, jf, k }];
    block.extend(then);
    block
}

/// What the kernel would answer; for tests of a filter's decisions, foreign architectures included.
#[cfg(test)]
pub(crate) fn decide(program: &[sock_filter], nr: u32, arch: u32, args: [u64; 6]) -> u32 {
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    loop {
        let op = program[at];
        at += 1;
        let jump = |taken| usize::from(if taken { op.jt } else { op.jf });
        match op.code {
            LOAD if op.k == OFFSET_NR => accumulator = nr,
            LOAD if op.k == OFFSET_ARCH => accumulator = arch,
            LOAD => {
                let index = usize::try_from((op.k - OFFSET_ARGS) / 8).unwrap();
                accumulator = u32::try_from(args[index] & 0xffff_ffff).unwrap();
            }
            AND => accumulator &= op.k,
            JUMP_EQUAL => at += jump(accumulator == op.k),
            JUMP_GREATER_EQUAL => at += jump(accumulator >= op.k),
            JUMP_SET => at += jump(accumulator & op.k != 0),
            RETURN => return op.k,
            other => panic!("no such instruction: {other:#x}"),
        }
    }
}
